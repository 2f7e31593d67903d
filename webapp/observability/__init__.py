"""Request ids, structured logs, metrics, health: what operators see of the service."""

from flask import Flask

from webapp.observability import health, lifecycle, logs
from webapp.settings import Settings


def init_app(app: Flask) -> None:
    """Set up by `app.extensions["settings"]`, before or after anything else."""
    settings: Settings = app.extensions["settings"]
    logs.configure(settings.env)
    lifecycle.init_app(app, logs.line_writer(settings.env))
    health.init_app(app)
