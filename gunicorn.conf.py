"""gunicorn's settings; `gunicorn wsgi:app` reads this file by itself."""

import os
import tempfile

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

development = os.environ.get("SIGHTLINE_ENV", "development") == "development"
# Numbers of all web processes together; it has to be there before prometheus_client is imported.
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="sightline-metrics-"))

bind = f"{'127.0.0.1' if development else '0.0.0.0'}:{os.environ.get('PORT', '8000')}"  # noqa: S104 - deployed, a proxy in front of it connects from elsewhere
worker_class = "gthread"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
threads = 8
preload_app = True
keepalive = 30
timeout = 30
graceful_timeout = 4
control_socket_disable = True
logger_class = "webapp.observability.gunicorn.GunicornLogger"


def on_starting(server: Arbiter) -> None:
    from webapp.boot import check_database
    from webapp.observability.gunicorn import answer_with_problems

    answer_with_problems()
    check_database(server.app.wsgi())


def child_exit(_: Arbiter, worker: Worker) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # it ships none for this
