"""Tasks that end their worker: how often each did, so that it is set aside in the end.

The broker delivers a task again whose worker was lost. A task that comes a second time is noted in
Redis before it runs, and the note is removed when the run ends, whatever its result. So a note that
is still there when the task comes again stands for a run that has ended its worker. A note carries
a MAC, since Redis is not believed. Where Redis does not answer, nothing is counted. Another key
begins to count anew, since a note is named by it.
"""

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import orjson
import structlog
from redis import Redis, RedisError

from webapp.key_ring import KeyRing
from webapp.redis_servers import connect

MAX_LOST = 3
"""After how many noted runs that ended their worker a task is given up. The first delivery, which
is not noted, has ended one more."""

SPLIT_AFTER = 1
"""After how many a task is split, where it can be. That may be bad luck, and does no harm."""

KEPT = 3600
"""Seconds for which a note is kept."""

MAX_KEPT = 2**16
"""Bytes of a task's arguments that are kept for a person to examine."""

_MAC_BYTES = 16

Split = Callable[[Any], Sequence[Any]]
"""Splits the only argument of a task; returns nothing where it cannot be split."""

_SPLITS: dict[str, Split] = {}

log = structlog.get_logger()


class LostRuns:
    """The notes, in the Redis of the cache."""

    def __init__(self, redis_url: str, timeout: float, keys: KeyRing) -> None:
        self._url, self._timeout = redis_url, timeout
        self._keys = keys.derive("lost run", _MAC_BYTES)
        self._client: Redis | None = None

    @contextmanager
    def noted(
        self, task: str, task_id: str, args: Sequence[Any], limit: int = MAX_LOST
    ) -> Iterator[bool]:
        """Run a task that comes again in the block, unless this yields that it is to be given up.

        It is after `limit` noted runs that ended their worker. Tasks with the same arguments are
        the same one: it may be sent anew under another id.
        """
        name = self._name(task, task_id, args)
        lost = self._read(name)
        self._write(name, min(lost + 1, MAX_LOST))
        if lost >= limit:
            yield True  # the note stays: the next one like it is given up too
            return
        try:
            yield False
        finally:
            self._remove(name)

    def _name(self, task: str, task_id: str, args: Sequence[Any]) -> str:
        named = f"{task} ".encode() + (_packed(args) if args else task_id.encode())
        return f"sightline:lost:{self._keys.mac(named).hex()}"

    def _read(self, name: str) -> int:
        found: Any = None
        with suppress(RedisError, OSError):
            found = self._redis.get(name)
        if not isinstance(found, bytes) or len(found) != 1 + _MAC_BYTES:
            return 0
        count, mac = found[:1], found[1:]
        return count[0] if self._keys.has_made(mac, count, name.encode()) else 0

    def _write(self, name: str, lost: int) -> None:
        with suppress(RedisError, OSError):
            self._redis.set(name, self._sealed(name, lost), ex=KEPT)

    def _remove(self, name: str) -> None:
        with suppress(RedisError, OSError):
            self._redis.delete(name)

    def _sealed(self, name: str, lost: int) -> bytes:
        count = bytes([lost])
        return count + self._keys.mac(count, name.encode())

    @property
    def _redis(self) -> Redis:
        """A client, made where it is first used: after the worker's fork."""
        if self._client is None:
            self._client = connect(self._url, self._timeout)
        return self._client


def split_by(task: str, split: Split) -> None:
    """Have a task that ends its worker again and again split instead of set aside, while it can."""
    _SPLITS[task] = split


def parts_of(task: str, args: Sequence[Any]) -> Sequence[Any]:
    """The arguments of the tasks that are sent instead of one that has ended its worker."""
    return _SPLITS[task](*args) if task in _SPLITS else ()


def excerpt(args: Sequence[Any]) -> str:
    """The beginning of a task's arguments, in base64, for quarantine."""
    shown = args[0] if len(args) == 1 else args
    shown = shown[0] if isinstance(shown, list) and len(shown) == 1 else shown
    return b64encode(_packed(shown)[:MAX_KEPT]).decode()


def _packed(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        return repr(value).encode(errors="backslashreplace")
