"""Wipe the cache, overwrite it with garbage, forge it and restore older values, all the time."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from threading import Event
from time import monotonic

import redis

from reliability.stress.counts import Counts
from tests.processes import ROOT

PAUSE = 1.0
"""The most seconds between two acts."""

FIRST_CLEAR, CLEAR_EVERY = 3.0, 15.0
CLEAR_TIMEOUT = 60


class ClearFailed(Exception):
    pass


@dataclass
class CacheSaboteur:
    """Harms only the keys with the cache's prefix, because the broker's are in the same Redis."""

    client: redis.Redis
    prefix: str
    environment: Mapping[str, str]
    counts: Counts
    rng: Random
    _kept: dict[bytes, bytes] = field(default_factory=dict)

    def work(self, stopping: Event) -> None:
        clear_at = monotonic() + FIRST_CLEAR
        while not stopping.wait(self.rng.uniform(0.1, PAUSE)):
            if monotonic() >= clear_at:
                self._clear()
                clear_at = monotonic() + CLEAR_EVERY
                continue
            acts = (self._wipe, self._wipe, self._garble, self._forge, self._replay)
            self.rng.choice(acts)()

    def _keys(self, kind: str = "") -> list[bytes]:
        return sorted(self.client.scan_iter(f"{self.prefix}{kind}*", count=1000))

    def _some(self, keys: Iterable[bytes]) -> list[bytes]:
        return [key for key in keys if self.rng.random() < 0.5]

    def _wipe(self) -> None:
        keys = self._keys()
        if keys:
            self.client.delete(*keys)
            self.counts.harm("wipes")

    def _garble(self) -> None:
        for key in self._some(self._keys()):
            self.client.set(key, self._garbage(key))
            self.counts.harm("keys garbled")

    def _garbage(self, key: bytes) -> bytes:
        return self.rng.choice(
            (
                b"",
                b"{}",
                self.rng.randbytes(200),
                pickle.dumps({"items": [], "next_cursor": None, "total": 0}),
                (self._read(key) or b"")[: self.rng.randrange(1, 60)],
                b"SLCV\x01" + self.rng.randbytes(80),
                b"SLCV\x63" + self.rng.randbytes(80),
            )
        )

    def _forge(self) -> None:
        """Store one key's value under another key, and values that are no strings."""
        keys = self._keys("value:")
        for key in self._some(keys):
            other = self._read(self.rng.choice(keys))
            if other is None or self.rng.random() < 0.3:
                self.client.delete(key)
                self.client.rpush(key, "an item")
            else:
                self.client.set(key, other, ex=60)
            self.counts.harm("keys forged")

    def _read(self, key: bytes) -> bytes | None:
        """The value of a key, unless the key is gone or its value is no string."""
        [value] = self.client.mget([key])
        return value if isinstance(value, bytes) else None

    def _replay(self) -> None:
        """Restore values as they were a while ago, each of which was right for its key then."""
        now = {key: self.client.dump(key) for key in self._keys("value:")}
        for key, value in self._kept.items():
            self.client.restore(key, 60_000, value, replace=True)
            self.counts.harm("values replayed")
        self._kept = {key: value for key, value in now.items() if value is not None}

    def _clear(self) -> None:
        """Clear the cache as an operator does who no longer trusts it."""
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "cache", "clear"]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | dict(self.environment),
            capture_output=True,
            text=True,
            timeout=CLEAR_TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise ClearFailed(done.stderr)
        self.counts.harm("cache clear")
