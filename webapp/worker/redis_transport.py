"""kombu's Redis transport, for a broker into which others may write.

kombu parses what it takes from a list before anybody can refuse it, and an error there ends the
worker. So each message is read here first, and gets an envelope of our own: of the one that came
only the body is kept, which its MAC vouches for.

Nor can kombu go on where a key of the broker's holds a value of another type. Such a value is
removed. What was there before is gone, and is sent again by the journals, or by beat.
"""

from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import orjson
import structlog
from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.objects import cached_property
from redis import Redis, ResponseError
from redis.client import Pipeline

from webapp.worker.consumer import MAX_KEPT
from webapp.worker.serialization import MAC_BYTES, MAX_PACKED

MAX_BODY = 4 * (MAX_PACKED + MAC_BYTES + 2) // 3
"""Characters of the largest body in base64."""

MAX_MESSAGE = MAX_BODY + 2**14
"""Bytes of the largest message with its envelope."""

UNKNOWN = "application/octet-stream"
"""The content type of what is no message."""

log = structlog.get_logger()


class _Client(Redis):
    """A client whose replies are checked, and which removes values that are in its way."""

    def __init__(self, channel: "_Checked", **options: Any) -> None:
        super().__init__(**options)
        self._channel = channel
        self.set_response_callback("BRPOP", _read_taken)
        self.set_response_callback("HGET", _read_unacknowledged)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return self._attempt(partial(super().execute_command, *args, **options), args[1:2])

    def transaction(self, func: Any, *watches: Any, **options: Any) -> Any:
        return self._attempt(partial(super().transaction, func, *watches, **options), watches)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> "_Pipeline":
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """Read a reply. kombu sends BRPOP by itself: an error in its reply means no message."""
        try:
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]  # redis-py left it untyped
        except ResponseError as error:
            if command_name != "BRPOP" or not _is_wrong_type(error):
                raise
        for key in self._channel.queue_keys:
            self.llen(key)  # which removes what is no list
        return None

    def _attempt(self, do: Callable[[], Any], keys: Sequence[Any]) -> Any:
        try:
            return do()
        except ResponseError as error:
            if not _is_wrong_type(error):
                raise
        _remove(self, keys)
        return do()


class _Pipeline(Pipeline):
    """Commands that are sent together. Those that a value is in the way of are sent again."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands = list(self.command_stack)
        results = super().execute(raise_on_error=False)
        failed = [n for n, result in enumerate(results) if _is_wrong_type(result)]
        if failed:
            _remove(
                Redis(connection_pool=self.connection_pool), [commands[n][0][1] for n in failed]
            )
            self.command_stack = [commands[n] for n in failed]
            for n, result in zip(failed, super().execute(raise_on_error=False), strict=True):
                results[n] = result
        errors = (result for result in results if isinstance(result, ResponseError))
        if raise_on_error and (first := next(errors, None)) is not None:
            raise first
        return results


def _is_wrong_type(error: object) -> bool:
    """Whether Redis says that a key holds a value of another type than the command is for."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def _remove(client: Redis, keys: Sequence[Any]) -> None:
    log.error("broker_keys_of_another_type_removed", keys=[str(key) for key in keys])
    client.delete(*keys)


class _Checked(redis.Channel):
    """A channel whose replies from the broker are checked before kombu parses them."""

    @property
    def queue_keys(self) -> list[str]:
        """The lists from which this channel takes messages."""
        return [
            f"{queue}{self.sep}{priority}" if priority else queue
            for queue in self.active_queues
            for priority in self.priority_steps
        ]

    @cached_property
    def client(self) -> Any:
        return self._checked(super().client)

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        with super().conn_or_acquire(client) as acquired:
            yield self._checked(acquired)

    def _checked(self, client: Redis) -> _Client:
        if isinstance(client, _Client):
            return client
        return _Client(self, connection_pool=client.connection_pool)


class Channel(_Checked):
    """A channel to one server."""


class SentinelChannel(_Checked, redis.SentinelChannel):
    """A channel to the server that Sentinel says is the primary."""


class Transport(redis.Transport):
    Channel = Channel


class SentinelTransport(redis.SentinelTransport):
    Channel = SentinelChannel


def use_for_redis() -> None:
    """Have kombu use these transports, also after a failover."""
    for scheme, transport in (
        ("redis", Transport),
        ("rediss", Transport),
        ("sentinel", SentinelTransport),
    ):
        TRANSPORT_ALIASES[scheme] = f"{transport.__module__}:{transport.__qualname__}"


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
