"""Tasks as they travel through the broker, and as a worker receives them."""

import json
from typing import Any

import orjson
from celery.worker.request import Request
from kombu.serialization import register
from kombu.transport.virtual import QoS

SERIALIZER = "orjson"
"""JSON as kombu's own is, but for what nothing here sends: objects of Python's."""


def _dump(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        return json.dumps(value)


def _load(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:  # the same; what is no JSON at all is none for the other either
        return json.loads(text)


register(SERIALIZER, _dump, _load, content_type="application/x-orjson", content_encoding="utf-8")


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
