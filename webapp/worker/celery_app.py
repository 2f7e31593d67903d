"""Celery, set up for one application."""

from typing import Any

from celery import Celery, Task
from flask import Flask

from webapp.settings import Settings
from webapp.worker import consumer, redis_transport
from webapp.worker.messages import SealedMessages
from webapp.worker.serialization import register_serializer


def init_app(app: Flask) -> None:
    """Set up Celery by `celeryconfig`. Each task runs in an application context of its own."""
    settings: Settings = app.extensions["settings"]

    class ContextTask(Task[Any, Any]):
        Request = "webapp.worker.delivery:Delivery"

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with app.app_context():
                return self.run(*args, **kwargs)

    consumer.refuse_compression()
    redis_transport.use_for_redis()
    celery = Celery(app.name, task_cls=ContextTask, amqp=SealedMessages, set_as_current=False)
    celery.config_from_object("celeryconfig")
    serializer = register_serializer(settings.secret_key)
    celery.conf.update(
        broker_url=settings.celery_broker_url,
        task_serializer=serializer,
        accept_content=[serializer],
    )
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
