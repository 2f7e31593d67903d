"""Workers and beat note signs of life, so that it shows where none is at work."""

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

import structlog
from celery import bootsteps
from flask import Flask
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db
from webapp.key_uses import service as key_uses
from webapp.signs_of_life import service
from webapp.signs_of_life.service import Kind

EVERY = 15.0
"""Seconds between two signs of a worker, and at least between two of beat."""

log = structlog.get_logger()


class Pulse:
    """The signs of one process."""

    def __init__(self, app: Flask, kind: Kind) -> None:
        self._app, self._kind = app, kind
        self._noted_at: float | None = None
        self._keys_are_noted = False

    def note(self) -> None:
        """Note that this process is at work, unless it has just been noted."""
        now = monotonic()
        if self._noted_at is None or now - self._noted_at >= EVERY / 2:
            self._noted_at = now
            self._write(service.note)
            if not self._keys_are_noted:
                self._keys_are_noted = self._write(key_uses.note)

    def end(self) -> None:
        """Remove the sign: the process ends in order."""
        self._write(service.remove)

    def _write(self, change: Callable[[Session, Kind], None]) -> bool:
        """Change the sign, or the keys, over a connection that is closed then.

        A process that a worker forks later must not share it. Where the database does not answer,
        the sign grows old, as it should.
        """
        written = True
        with self._app.app_context():
            try:
                with db.scoped(MaintenanceScope()):
                    change(db.session, self._kind)
                    db.session.commit()
            except SQLAlchemyError as error:
                log.warning("sign_of_life_not_noted", problem=type(error).__name__)
                written = False
        with self._app.app_context():
            db.prepare_to_fork()
        return written


class WorkerPulse(bootsteps.StartStopStep):
    """Notes signs for as long as the consumer takes tasks from the broker.

    Celery stops its steps when the broker is lost, and starts them when it is there again.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._pulse = Pulse(consumer.app.flask_app, "worker")
        self._cancel: Callable[[], None] | None = None

    def start(self, consumer: Any) -> None:
        self._pulse.note()
        timer = consumer.timer.call_repeatedly(EVERY, self._pulse.note)
        self._cancel = partial(timer.cancel)

    def stop(self, consumer: Any) -> None:
        if self._cancel is not None:
            self._cancel()
            self._cancel = None

    def shutdown(self, consumer: Any) -> None:
        self.stop(consumer)
        self._pulse.end()
