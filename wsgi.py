"""The composition root: `gunicorn wsgi:app`, `celery -A wsgi.celery worker`, `flask --app wsgi`.

What is imported and made here stays until the process ends. Searching it for garbage again and
again takes a third of the start, so the collector begins with what is made later.
"""

import gc

gc.disable()

import tasks  # noqa: F401 - registers the tasks
from webapp import create_app
from webapp.boot import check_database_in_worker
from webapp.settings import SettingsError

try:
    app = create_app()
except SettingsError as error:
    raise SystemExit(str(error)) from None
celery = app.extensions["celery"]
check_database_in_worker(app)
gc.freeze()
gc.enable()
