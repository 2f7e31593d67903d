"""Request ids, structured logs, metrics, health: what operators see of the service."""

from webapp.observability import health, logs
from webapp.observability.request_log import Application
from webapp.settings import Settings


def init_app(app: Application) -> None:
    """Set up by `app.extensions["settings"]`, before or after anything else."""
    settings: Settings = app.extensions["settings"]
    logs.configure(settings.env)
    app.write_line = logs.line_writer(settings.env)
    health.init_app(app)
