"""Celery, set up for one application."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import structlog
from celery import Task
from flask import Flask

from webapp.settings import Settings
from webapp.worker import amqp_transport, broker, consumer, redis_transport
from webapp.worker.alive import WorkerPulse
from webapp.worker.bound_celery import BoundCelery
from webapp.worker.consumer import ASIDE_TASK
from webapp.worker.lost_runs import MAX_LOST, SPLIT_AFTER, LostRuns, excerpt, parts_of
from webapp.worker.messages import SealedMessages
from webapp.worker.serialization import register_serializers

log = structlog.get_logger()


def init_app(app: Flask) -> None:
    """Set up Celery by `celeryconfig`. Each task runs in an application context of its own."""
    settings: Settings = app.extensions["settings"]

    lost = LostRuns(settings.redis_url, settings.cache_timeout, settings.secret_keys)

    class ContextTask(Task[Any, Any]):
        Request = "webapp.worker.delivery:Delivery"

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            began = perf_counter()
            with app.app_context():
                result = self._run_or_give_up(args, kwargs)
            log.info(
                "task",
                task=self.name,
                task_id=self.request.id,
                duration_ms=round((perf_counter() - began) * 1000, 2),
            )
            return result

        def _run_or_give_up(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
            if not (self.request.delivery_info or {}).get("redelivered"):
                return self.run(*args, **kwargs)
            parts = parts_of(self.name, args)
            limit = SPLIT_AFTER if parts else MAX_LOST
            with lost.noted(self.name, self.request.id or "", args, limit) as is_given_up:
                return self._give_up(args, parts) if is_given_up else self.run(*args, **kwargs)

        def _give_up(self, args: Sequence[Any], parts: Sequence[Any]) -> None:
            """Send the parts of a task instead of it; what has no parts goes into quarantine."""
            log.critical("task_ended_its_worker", task=self.name, parts=len(parts))
            for part in parts:
                self.app.send_task(self.name, args=[part], argsrepr="", kwargsrepr="", retry=False)
            if not parts and self.name != ASIDE_TASK:
                problem = f"{self.name} has ended its worker {MAX_LOST + 1} times"
                self.app.send_task(ASIDE_TASK, args=[problem, excerpt(args), True], argsrepr="")

    consumer.refuse_compression()
    redis_transport.use_for_redis()
    amqp_transport.use_for_amqps()
    celery = BoundCelery(app, task_cls=ContextTask, amqp=SealedMessages, set_as_current=False)
    celery.steps["consumer"].add(WorkerPulse)
    celery.config_from_object("celeryconfig")
    serializers = register_serializers(settings.secret_keys)
    celery.conf.update(
        task_serializer=serializers[0],
        accept_content=serializers,
        **broker.configuration(settings, celery.conf.task_queues),
    )
    celery.set_default()
    app.extensions["celery"] = celery
