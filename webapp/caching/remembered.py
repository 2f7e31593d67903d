"""What a process knows for as long as nothing has changed."""

from collections.abc import Hashable
from threading import Lock
from typing import Any

from cachetools import LRUCache

REMEMBERED = 10_000


class Remembered:
    """Values by their keys, each with the generations that it is good for; the reader compares."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._entries: LRUCache[Hashable, tuple[Hashable, Any]] = LRUCache(size)
        self._lock = Lock()

    def get(self, key: Hashable) -> tuple[Any, Any] | None:
        """The generations and the value."""
        with self._lock:
            return self._entries.get(key)

    def put(self, key: Hashable, generations: Hashable, value: object) -> None:
        with self._lock:
            self._entries[key] = (generations, value)
