"""The cached values that a process keeps in its own memory."""

from collections.abc import Callable, Mapping
from functools import cached_property
from hashlib import blake2b
from threading import Lock
from typing import Any

from cachetools import LRUCache

from webapp.caching.envelope import Envelope

MEMORY = 16 * 2**20
"""Bytes for all entries together."""

LEAST_WEIGHT = 4096
OBJECTS_PER_BYTE = 4
"""Bytes that a payload's objects take, roughly, for each byte of its JSON."""


class Unloadable(Exception):
    """The schema refuses the payload."""


class CacheEntry:
    """A cached value in memory: its JSON, and the objects once a caller has asked for them."""

    def __init__(
        self, envelope: Envelope, generations: Mapping[str, int], load: Callable[[bytes], Any]
    ) -> None:
        self.json = envelope.payload
        self.soft = envelope.soft
        self.hard = envelope.hard
        self.generations = generations
        self._load = load
        self._lock = Lock()

    @cached_property
    def etag(self) -> str:
        return f'"{blake2b(self.json, digest_size=16).hexdigest()}"'

    @cached_property
    def _value(self) -> Any:
        try:
            return self._load(self.json)
        except Exception as error:  # validators and models may raise anything
            raise Unloadable from error

    @property
    def value(self) -> Any:
        """The object that the schema loads from the payload, the same one for every caller."""
        with self._lock:
            return self._value

    @property
    def weight(self) -> int:
        return LEAST_WEIGHT + (1 + OBJECTS_PER_BYTE) * len(self.json)


class LocalCache:
    """The most recently used entries, within MEMORY bytes.

    Each entry weighs LEAST_WEIGHT at least, so that MEMORY limits their number too.
    """

    def __init__(self) -> None:
        self._entries: LRUCache[str, CacheEntry] = LRUCache(MEMORY, getsizeof=lambda e: e.weight)
        self._lock = Lock()

    def get(self, key: str) -> CacheEntry | None:
        with self._lock:
            return self._entries.get(key)

    def put(self, key: str, entry: CacheEntry) -> None:
        if entry.weight <= MEMORY:
            with self._lock:
                self._entries[key] = entry

    def drop(self, key: str) -> None:
        with self._lock:
            self._entries.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
