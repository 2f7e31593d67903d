"""A task's delivery: it frees its prefetch slot in any case, and is put back after an error."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep

import structlog
from celery.exceptions import Reject
from celery.worker.request import Request
from kombu.transport.virtual import QoS

PAUSE = 1.0
"""Seconds before a delivery whose task failed is put back into its queue."""

log = structlog.get_logger()


@contextmanager
def put_back(event: str, *, again: bool = True) -> Iterator[None]:
    """Log an error as `event`, and put the delivery back into its queue if it is to come `again`.

    Celery's own retry would send a copy and drop this delivery, even where the copy is lost.
    """
    try:
        yield
    except Exception as error:
        log.error(event, exc_info=error)
        sleep(PAUSE)
        raise Reject(type(error).__name__, requeue=again) from error


class Delivery(Request):
    """Always releases its prefetch slot, even if the broker is lost before the acknowledgement.

    kombu's virtual transports (Redis) log the error and keep the slot taken. A worker that has lost
    all slots never asks the broker again, and so never notices that it has to reconnect
    (celery/celery#8091). The message is not lost: the broker delivers it again. This class goes
    once `Message.ack_log_error` frees the slot itself.
    """

    def acknowledge(self) -> None:
        super().acknowledge()
        self._release_slot()

    def reject(self, requeue: bool = False) -> None:
        super().reject(requeue=requeue)
        self._release_slot()

    def _release_slot(self) -> None:
        message = self.message
        qos = getattr(message.channel, "qos", None)
        if isinstance(qos, QoS) and not message.acknowledged:
            QoS.ack(qos, message.delivery_tag)
