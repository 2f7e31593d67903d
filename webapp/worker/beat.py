"""The scheduler of beat, which goes on after the broker was away."""

import signal
import sys
from typing import Any, cast

import structlog
from celery import beat
from celery.signals import beat_init

from webapp.worker.alive import Pulse
from webapp.worker.bound_celery import BoundCelery

log = structlog.get_logger()


@beat_init.connect
def _end_only(**_: Any) -> None:
    """Have a signal end beat, which closes its scheduler then.

    Celery's handler closes it at once, in the midst of whatever runs: a sign of life that is being
    noted holds locks that closing needs, so beat would wait for itself.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())


class Scheduler(beat.Scheduler):
    """Sends each task over a connection that is known to be open, and keeps none of its own.

    Celery's scheduler sends all of them over one connection. Once RabbitMQ has closed that, every
    further task fails, and nothing opens it again unless sends are retried.
    """

    producer: Any = None
    """None: each send takes a connection from the application's pool, which opens a new one."""

    _pulse: Pulse
    _has_begun = False

    def setup_schedule(self) -> None:
        super().setup_schedule()
        self._pulse = Pulse(cast(BoundCelery, self.app).flask_app, "beat")

    def tick(self, *args: Any, **kwargs: Any) -> float:
        if not self._has_begun:
            self._has_begun = True
            self._pulse.note()
        return super().tick(*args, **kwargs)

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
