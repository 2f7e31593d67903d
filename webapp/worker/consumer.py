"""The worker's consumer, which runs no task before the MAC of its message holds.

A message that cannot be opened is not lost without a trace, and ends no worker: the task
`ASIDE_TASK` gets it instead of the task that it names. What it stood for is sent again by the
journals, or by beat.
"""

from base64 import b64encode
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import structlog
from celery.worker.consumer import Consumer
from kombu import compression, serialization

from webapp.worker.messages import headers_of
from webapp.worker.serialization import NotSealed

ASIDE_TASK = "audit.set_aside"

MAX_KEPT = 2**14
"""Bytes of a refused message that are kept for a person to examine."""

_ASIDE = "sightline.aside"
"""Marks a message in its delivery's information, which the broker's clients cannot write."""

log = structlog.get_logger()


def refuse_compression() -> None:
    """Have kombu compress and decompress nothing: it would do so before the MAC is verified.

    Tasks are compressed below their MAC.
    """

    def refuse(_: bytes) -> bytes:
        raise NotSealed("the body is compressed above its MAC")

    for kind in compression.encoders():
        compression.register(refuse, refuse, kind)


class SealedConsumer(Consumer):
    """Gives Celery a message with the headers that are under the MAC, and with no others."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[valid-type,misc]  # declared as a value
        """Celery's steps but one: the queues and exchanges that it declares in RabbitMQ for tasks
        with a delay. There are 28 of each, and no task here has one."""

        default_steps = [
            step for step in Consumer.Blueprint.default_steps if "DelayedDelivery" not in str(step)
        ]

    _handle: Callable[[Any], Any]

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        self._handle = super().create_task_handler(*args, **options)
        return self._open

    def _open(self, message: Any) -> None:
        try:
            if message.content_type not in message.accept:
                raise NotSealed("the body is of another kind, or under another key")
            message.headers = headers_of(message.decode())
        except Exception as error:  # whatever it is, it must not end the worker
            self.on_decode_error(message, error)
        else:
            self._handle(message)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Put a message aside that cannot be opened."""
        if message.delivery_info.get(_ASIDE):  # a fault of our own: not a second time
            super().on_decode_error(message, exc)
            return
        log.error("task_refused", problem=_problem(exc), bytes=len(message.body or ()))
        task = self.app.amqp.as_task_v2(
            str(uuid4()), ASIDE_TASK, args=(_problem(exc), _kept(message.body)), argsrepr=""
        )
        message.content_type, message.content_encoding, message.body = serialization.dumps(
            task.body, self.app.conf.task_serializer
        )
        message.headers = task.headers
        message.delivery_info[_ASIDE] = True
        self._handle(message)


def _problem(error: Exception) -> str:
    """Say what is wrong, without a text of the message's own."""
    # kombu wraps what the serializer raises.
    known = (each for each in (error, *error.args) if isinstance(each, NotSealed))
    return str(next(known, type(error).__name__))


def _kept(body: object) -> str:
    data = body.encode(errors="replace") if isinstance(body, str) else bytes(body or b"")  # type: ignore[call-overload]  # bytes, or a view of them
    return b64encode(data[:MAX_KEPT]).decode()
