"""The composition root: `gunicorn wsgi:app`, `celery -A wsgi.celery worker`, `flask --app wsgi`.

Objects made here stay until the process ends. Searching them for garbage would take a third of the
start, so the collector is off until they are made, and ignores them afterwards.
"""

import gc

gc.disable()

import tasks  # noqa: F401 - registers the tasks
from webapp.application import create_app
from webapp.boot import check_in_worker
from webapp.observability.side_port import serve_in_worker
from webapp.settings import SettingsError

try:
    app = create_app()
except SettingsError as error:
    raise SystemExit(str(error)) from None
celery = app.extensions["celery"]
check_in_worker(app)
serve_in_worker(app)
gc.freeze()
gc.enable()
