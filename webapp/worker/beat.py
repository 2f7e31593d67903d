"""The scheduler of beat, which goes on after the broker was away."""

from typing import Any, cast

import structlog
from celery import beat

from webapp.worker.alive import Pulse
from webapp.worker.bound_celery import BoundCelery

log = structlog.get_logger()


class Scheduler(beat.Scheduler):
    """Sends each task over a connection that is known to be open, and keeps none of its own.

    Celery's scheduler sends all of them over one connection. Once RabbitMQ has closed that, every
    further task fails, and nothing opens it again unless sends are retried.
    """

    producer: Any = None
    """None: each send takes a connection from the application's pool, which opens a new one."""

    _pulse: Pulse

    def setup_schedule(self) -> None:
        super().setup_schedule()
        self._pulse = Pulse(cast(BoundCelery, self.app).flask_app, "beat")
        self._pulse.note()

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send a task that is due. One that cannot be sent is sent at its next time."""
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except beat.SchedulingError as error:
            log.error("task_not_sent", task=entry.task, problem=repr(error.__cause__ or error))
        else:
            self._pulse.note()

    def close(self) -> None:
        super().close()
        self._pulse.end()
