"""The metrics of a host whose processes answer no HTTP otherwise: a worker's, on METRICS_PORT."""

from collections.abc import Iterable
from threading import Thread
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from celery.signals import worker_ready
from flask import Flask
from prometheus_client.exposition import ThreadingWSGIServer

from webapp.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PATHS = frozenset({"/metrics", "/healthz", "/readyz"})

PATIENCE = 10
"""Seconds that a client may take to send its request."""

log = structlog.get_logger()


class Handler(WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Say nothing: the application has a line for each request."""


def serve_in_worker(app: Flask) -> None:
    """Serve the metrics once this process has started as a Celery worker, if a port is set."""
    settings: Settings = app.extensions["settings"]

    def serve(**_: object) -> None:
        if settings.metrics_port is not None:
            start(app, settings.metrics_port)

    worker_ready.connect(serve, weak=False)


def start(app: Flask, port: int) -> ThreadingWSGIServer:
    """Serve PATHS of an application from a thread, and nothing else of it."""
    settings: Settings = app.extensions["settings"]
    host = "0.0.0.0" if settings.deployed else "127.0.0.1"  # noqa: S104 - Prometheus connects from elsewhere

    def only_paths(environ: "WSGIEnvironment", respond: "StartResponse") -> Iterable[bytes]:
        if environ.get("PATH_INFO") in PATHS:
            return app.wsgi_app(environ, respond)
        respond("404 Not Found", [("Content-Type", "text/plain")])
        return [b"Only /metrics, /healthz and /readyz are here.\n"]

    server = make_server(host, port, only_paths, ThreadingWSGIServer, Handler)
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    log.info("metrics_served", port=server.server_port)
    return server
