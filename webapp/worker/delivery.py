"""A task's delivery that frees its prefetch slot even when its acknowledgement fails."""

from celery.worker.request import Request
from kombu.transport.virtual import QoS


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
