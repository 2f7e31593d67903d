"""Request ids, structured logs, metrics, health: what operators see of the service."""

from flask import Flask

from webapp.observability import health, logs, request_log
from webapp.settings import Settings


def init_app(app: Flask) -> None:
    """Set up by `app.extensions["settings"]`, before anything else that has hooks."""
    settings: Settings = app.extensions["settings"]
    logs.configure(settings.env)
    request_log.init_app(app)
    health.init_app(app)
