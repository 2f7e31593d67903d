"""Celery, set up for one application."""

from typing import Any

from celery import Celery, Task
from flask import Flask

from webapp.settings import Settings


def init_app(app: Flask) -> None:
    """Set up Celery by `celeryconfig`. Each task runs in an application context of its own."""
    settings: Settings = app.extensions["settings"]

    class ContextTask(Task[Any, Any]):
        Request = "webapp.worker.delivery:Delivery"

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery = Celery(app.name, task_cls=ContextTask, set_as_current=False)
    celery.config_from_object("celeryconfig")
    celery.conf.update(broker_url=settings.celery_broker_url)
    if settings.celery_broker_url.startswith("redis"):
        celery.conf.broker_transport_options = {
            "socket_timeout": settings.audit_timeout,
            "socket_connect_timeout": settings.audit_timeout,
            "retry_on_timeout": False,
            "max_retries": 0,
            "visibility_timeout": 60,
        }
    celery.set_default()
    app.extensions["celery"] = celery
