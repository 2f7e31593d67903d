"""kombu's Redis transport, for a broker into which others may write.

kombu parses what it takes from a list before anybody can refuse it, and an error there ends the
worker. So each message is read here first, and gets an envelope of our own: of the one that came
only the body is kept, which its MAC vouches for.
"""

from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import orjson
from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.objects import cached_property
from redis import Redis

from webapp.worker.consumer import MAX_KEPT
from webapp.worker.serialization import MAC_BYTES, MAX_PACKED

MAX_BODY = 4 * (MAX_PACKED + MAC_BYTES + 2) // 3
"""Characters of the largest body in base64."""

MAX_MESSAGE = MAX_BODY + 2**14
"""Bytes of the largest message with its envelope."""

UNKNOWN = "application/octet-stream"
"""The content type of what is no message."""


class Channel(redis.Channel):
    """A channel whose replies from the broker are checked before kombu parses them."""

    @cached_property
    def client(self) -> Any:
        return _checked(super().client)

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        with super().conn_or_acquire(client) as acquired:
            yield _checked(acquired)


class Transport(redis.Transport):
    Channel = Channel


def use_for_redis() -> None:
    """Have kombu use this transport for `redis://` and `rediss://`, also after a failover."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{Transport.__module__}:{Transport.__qualname__}"


def _checked(client: Redis) -> Redis:
    client.set_response_callback("BRPOP", _read_taken)
    client.set_response_callback("HGET", _read_unacknowledged)
    return client


def _read_taken(reply: Any, **_: Any) -> tuple[bytes, bytes] | None:
    """Read the reply to BRPOP: a list's key, and what was taken from the list."""
    if not reply:
        return None
    key, item = reply
    queue = key.decode().split(redis.Channel.sep)[0]
    return key, orjson.dumps(rewrap(item, queue))


def _read_unacknowledged(stored: Any, **_: Any) -> bytes | None:
    """Read a message that was taken and not acknowledged: an envelope, an exchange and a queue."""
    try:
        envelope, _exchange, queue = orjson.loads(stored)
        return orjson.dumps([rewrap(orjson.dumps(envelope), str(queue)), "", str(queue)])
    except (TypeError, ValueError):
        return None


def rewrap(item: bytes, queue: str) -> dict[str, Any]:
    """Return an envelope for what was in a queue; what is no message becomes the body of one."""
    try:
        body, content_type, redelivered = _read(item)
    except (AttributeError, KeyError, TypeError, ValueError):  # no envelope, or no base64
        body, content_type, redelivered = b64encode(item[:MAX_KEPT]).decode(), UNKNOWN, False
    return {
        "body": body,
        "content-type": content_type,
        "content-encoding": "binary",
        "headers": {},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
            "delivery_info": {"exchange": "", "routing_key": queue, "redelivered": redelivered},
        },
    }


def _read(item: bytes) -> tuple[str, str, bool]:
    """Return a message's body in base64, its content type, and whether it came before."""
    if len(item) > MAX_MESSAGE:
        raise ValueError("too large")
    envelope = orjson.loads(item)
    body, content_type = envelope["body"], envelope["content-type"]
    if not isinstance(body, str) or not isinstance(content_type, str):
        raise TypeError
    a2b_base64(body, strict_mode=True)
    redelivered = envelope["properties"]["delivery_info"].get("redelivered") is True
    return body, content_type, redelivered
