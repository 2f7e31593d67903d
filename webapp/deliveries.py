"""Tasks as a worker receives them from the broker."""

from celery.worker.request import Request
from kombu.transport.virtual import QoS


class Delivery(Request):
    """One that always gives its place in the worker free.

    A worker asks for no more than it has places. Where the broker is lost before a message could be
    acknowledged, kombu logs that and keeps the place; and a worker that has lost all of them never
    asks again, and so never finds out that it has to connect anew. The message is not lost: the
    broker delivers it again.
    """

    def acknowledge(self) -> None:
        super().acknowledge()
        self._leave()

    def reject(self, requeue: bool = False) -> None:
        super().reject(requeue=requeue)
        self._leave()

    def _leave(self) -> None:
        message = self.message
        qos = getattr(message.channel, "qos", None)
        if isinstance(qos, QoS) and not message.acknowledged:
            QoS.ack(qos, message.delivery_tag)
