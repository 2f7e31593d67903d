"""The cache's commands to Redis. Each has a timeout, and raises `Unavailable` if it fails.

After a connection fails or hangs, no command is sent for SKIP seconds, so that a request does not
wait for the timeout more than once. The database answers meanwhile.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import getpid
from threading import local
from time import monotonic
from typing import Any

import redis
from cachelib.serializers import BaseSerializer
from redis.backoff import NoBackoff
from redis.retry import Retry

from webapp.extensions import cache
from webapp.redis_servers import connect, is_sentinel

SKIP = 0.5
"""Seconds without commands after Redis has failed."""

MAX_CONNECTIONS = 10_000
"""Two for each thread: as many as there may ever be. redis-py refuses the hundred and first."""

FILL_SECONDS = 5.0
"""Seconds after which another process may fill a value, in case the first one has died."""

ERA = "era"
"""The key of a random value that stays the same until Redis loses its data."""

_PUBLISH = """
if ARGV[2] ~= '' and redis.pcall('GET', KEYS[1]) ~= ARGV[2] then return end
for i = 1, #KEYS - 1 do
  local key, generation, expires = KEYS[i + 1], tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local held, left, g, e = redis.pcall('GET', key), redis.call('PTTL', key), nil, nil
  if type(held) == 'string' then g, e = string.match(held, '^(%d+)|(%d+)|') end
  if not g or left < 0 or left > tonumber(ARGV[1]) or generation > tonumber(g)
      or (generation == tonumber(g) and expires > tonumber(e)) then
    redis.call('SET', key, ARGV[3 * i + 2], 'PXAT', expires)
  end
end
"""

_ERA = """
local held = redis.pcall('GET', KEYS[1])
if type(held) == 'string' and held ~= '' then return held end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
"""

# A lock without an expiry, or with one that is too far away, was not set by this script.
_ACQUIRE = """
local left = redis.call('PTTL', KEYS[1])
if left > 0 and left <= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


class Unavailable(Exception):
    """Redis has failed, now or within the last SKIP seconds."""


class Verbatim(BaseSerializer):
    """A serializer that keeps bytes as they are: envelopes are sealed, and nothing is unpickled."""

    def dumps(self, value: bytes, protocol: int = 0) -> bytes:
        return value

    def loads(self, bvalue: bytes) -> bytes:
        return bvalue


class _Readers(local):
    """The client of each thread that reads. It keeps one connection."""

    process: int | None = None
    client: redis.Redis


class Store:
    def __init__(self, url: str, prefix: str, timeout: float, lease: float) -> None:
        self.prefix = prefix
        self._lease = lease
        self._skip_until = 0.0
        self._restored_until = 0.0
        self._has_sentinel = is_sentinel(url)
        self._server: bytes | None = None
        """The run of the server that was connected to last, where Sentinel may name another."""
        self.client: redis.Redis = connect(
            url,
            timeout,
            redis_connect_func=self._connected,
            retry=Retry(NoBackoff(), 0),
            max_connections=MAX_CONNECTIONS,
        )
        self._readers = _Readers()
        self._publish = self.client.register_script(_PUBLISH)
        self._era = self.client.register_script(_ERA)
        self._acquire = self.client.register_script(_ACQUIRE)
        self._release = self.client.register_script(_RELEASE)

    @property
    def trusted(self) -> bool:
        """Whether all leases from before Redis's last start have expired (see `_connected`)."""
        return monotonic() >= self._restored_until

    def get_many(self, *keys: str) -> list[bytes | None]:
        """Return the values of `keys`, in one round trip.

        The thread has a connection of its own. A pool would ask the system before each read whether
        its connection is still open, which takes a third of the time of a read.
        """
        names = [self.prefix + key for key in keys]
        stored: list[bytes | None] = self._call(self._read, names)
        return stored

    def set(self, key: str, value: bytes, seconds: int) -> None:
        self._call(cache.set, key, value, timeout=seconds)

    def era(self) -> bytes:
        """Return a value that changes whenever Redis loses its data."""
        key, new = self.prefix + ERA, secrets.token_hex(16)
        era: bytes = self._call(self._era, keys=[key], args=[new])
        return era

    def publish(
        self,
        leases: Mapping[str, tuple[int, int, bytes]],
        *,
        era: bytes | None = None,
        at_once: bool = False,
    ) -> None:
        """Write leases, each as generation, expiry in ms, and bytes.

        No lease replaces a newer one. With an `era`, nothing is written in any other era. `at_once`
        tries even within SKIP seconds after a failure.
        """
        arguments = [part for lease in leases.values() for part in lease]
        keys = [self.prefix + key for key in (ERA, *leases)]
        call = self._attempt if at_once else self._call
        call(self._publish, keys=keys, args=[int(self._lease * 1000), era or b"", *arguments])

    def acquire_fill(self, key: str) -> bytes | None:
        """Return a token if this process may fill `key`, or `None` while another process fills it.

        Without Redis, every process fills for itself.
        """
        token = secrets.token_bytes(16)
        name = self.prefix + _fill_key(key)
        try:
            acquired = self._call(
                self._acquire, keys=[name], args=[token, int(FILL_SECONDS * 1000)]
            )
        except Unavailable:
            return token
        return token if acquired else None

    def release_fill(self, key: str, token: bytes) -> None:
        try:
            self._call(self._release, keys=[self.prefix + _fill_key(key)], args=[token])
        except Unavailable:
            return  # the lock expires after FILL_SECONDS

    def check(self) -> None:
        """Raise `Unavailable` unless Redis answers."""
        self._attempt(self.client.ping)

    def scan(self, prefix: str) -> Iterator[list[str]]:
        """Yield all keys that begin with a prefix, in batches, without the store's own prefix."""
        cursor = 0
        while True:
            cursor, names = self._attempt(
                self.client.scan, cursor, match=f"{self.prefix}{prefix}*", count=1000
            )
            if names:
                yield [name.decode(errors="replace").removeprefix(self.prefix) for name in names]
            if cursor == 0:
                return

    def sizes(self, keys: list[str]) -> list[int]:
        """Return the bytes that each of the keys takes in Redis."""
        pipeline = self.client.pipeline(transaction=False)
        for key in keys:
            pipeline.memory_usage(self.prefix + key)
        return [size or 0 for size in self._attempt(pipeline.execute)]

    def unlink(self, keys: list[str]) -> int:
        removed: int = self._attempt(self.client.unlink, *[self.prefix + key for key in keys])
        return removed

    def _read(self, names: Sequence[str]) -> Any:
        readers = self._readers
        if readers.process != getpid():  # a fork must not share its parent's connection
            pool = self.client.connection_pool
            readers.client = redis.Redis(connection_pool=pool, single_connection_client=True)
            readers.process = getpid()
        try:
            return readers.client.mget(names)
        except redis.ConnectionError:  # Redis may have closed the connection while it was idle
            return readers.client.mget(names)

    def _call(self, command: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if monotonic() < self._skip_until:
            raise Unavailable
        return self._attempt(command, *args, **kwargs)

    def _attempt(self, command: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            self._skip_until = monotonic() + SKIP
            raise Unavailable from error
        except redis.RedisError as error:
            raise Unavailable from error

    def _connected(self, connection: Any) -> None:
        """Set up a new connection, and distrust leases if Redis has just started.

        Redis may have restored them from a disk that had no newer generation yet. Every start
        breaks all connections, so that each process notices it here.
        """
        connection.on_connect()
        connection.send_command("INFO", "server")
        try:
            info = connection.read_response()
        except redis.ResponseError:
            info = b"uptime_in_seconds:0"  # INFO is not allowed: assume that Redis has just started
        uptime = int(_field(info, b"uptime_in_seconds:") or 0)
        if uptime <= self._lease + 1 or self._is_another(_field(info, b"run_id:")):
            self._restored_until = monotonic() + self._lease

    def _is_another(self, run: bytes) -> bool:
        """Whether Sentinel has led to another server, which may lack the newest leases: what a
        primary has taken, a replica gets later."""
        if not self._has_sentinel:
            return False
        before, self._server = self._server, run
        return run != before


def _field(info: bytes, name: bytes) -> bytes:
    return info.partition(name)[2].split(b"\r")[0]


def _fill_key(key: str) -> str:
    return f"fill:{key}"
