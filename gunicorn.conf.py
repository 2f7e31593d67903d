"""gunicorn's settings; `gunicorn wsgi:app` reads this file by itself."""

import atexit
import os
import shutil
import tempfile

import structlog
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker


def _remove(directory: str, maker: int) -> None:
    """Remove the directory when the process that made it ends, and not when a forked one does."""
    if os.getpid() == maker:
        shutil.rmtree(directory, ignore_errors=True)


def _address() -> str:
    """Loopback in development. Deployed, a proxy in front of it connects from elsewhere."""
    from webapp.settings import is_development  # it imports prometheus_client: see below

    return "127.0.0.1" if is_development() else "0.0.0.0"  # noqa: S104 - as the docstring says


METRICS = "PROMETHEUS_MULTIPROC_DIR"
# The directory for the metrics of all web processes. It must exist before prometheus_client is
# imported.
made_metrics = None if METRICS in os.environ else tempfile.mkdtemp(prefix="sightline-metrics-")
if made_metrics is not None:
    os.environ[METRICS] = made_metrics
    # Not in `on_exit`, which is not called where gunicorn refuses to start.
    atexit.register(_remove, made_metrics, os.getpid())

bind = f"{_address()}:{os.environ.get('PORT', '8000')}"
worker_class = "webapp.server.worker.BufferingWorker"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
threads = 8
worker_connections = 1000
sendfile = False  # it would wait for the client
preload_app = True
keepalive = 30
timeout = 30
graceful_timeout = 4
DRAIN = 3.0
"""Seconds that an ending worker takes to deliver its events. Other workers adopt the rest."""
control_socket_disable = True
# What a client on this host may say of itself: nothing. TRUSTED_PROXIES names whom we believe.
forwarded_allow_ips = ""
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}
# A worker's heartbeat sets the time of a file at each event. On a disk, that would wait for the
# disk, which the journal flushes at the same time.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 - gunicorn's file has no name
logger_class = "webapp.server.log.GunicornLogger"


def on_starting(server: Arbiter) -> None:
    from webapp.boot import check_database, check_signing_key

    check_signing_key(server.app.wsgi())
    check_database(server.app.wsgi(), "web")


def on_reload(_: Arbiter) -> None:
    """Say what SIGHUP does not do: processes are forked anew from the application as it is."""
    structlog.get_logger().warning("reloaded_without_code_and_settings")


def post_worker_init(worker: Worker) -> None:
    from webapp.audit.relay import pipeline
    from webapp.key_uses import service as key_uses
    from webapp.observability import request_log, traces
    from webapp.rules import rule_sets

    pipeline.start(worker.app.callable)
    traces.start(worker.app.callable)  # before the next: what that notes at the end is sent too
    request_log.note_in_background(worker.app.callable)
    rule_sets.prepare_in_background(worker.app.callable)
    key_uses.note_in_background(worker.app.callable)


def worker_exit(_: Arbiter, worker: Worker) -> None:
    from webapp.audit.relay import pipeline

    pipeline.stop(worker.app.callable, DRAIN)


def child_exit(_: Arbiter, worker: Worker) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # it ships none for this
