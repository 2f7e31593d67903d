"""What a process knows for as long as nothing has changed."""

from collections.abc import Hashable
from threading import Lock
from typing import Any

from cachetools import LRUCache

REMEMBERED = 10_000


class Remembered:
    """Values by their keys, each with the generations that it is good for."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._entries: LRUCache[Hashable, tuple[Hashable, Any]] = LRUCache(size)
        self._lock = Lock()

    def get(self, key: Hashable, generations: Hashable) -> Any:
        """The value, if these generations are its own; `None` where there is none."""
        known = self.entry(key)
        return known[1] if known is not None and known[0] == generations else None

    def entry(self, key: Hashable) -> tuple[Any, Any] | None:
        """The generations and the value, be it good or not: until they are compared, a hint."""
        with self._lock:
            return self._entries.get(key)

    def put(self, key: Hashable, generations: Hashable, value: object) -> None:
        with self._lock:
            self._entries[key] = (generations, value)
