"""Request ids, structured logs, metrics, traces and health, for those who operate the service."""

from flask import Flask

from webapp.observability import health, logs, request_log, traces
from webapp.settings import Settings


def init_app(app: Flask) -> None:
    """Set up logs, request hooks and health; comes before all that registers request hooks."""
    settings: Settings = app.extensions["settings"]
    logs.configure(settings.env)
    traces.init_app(app)
    request_log.init_app(app)
    health.init_app(app)
