"""A cache in the process's memory for values that are valid until a generation changes."""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

MAX_ENTRIES = 10_000


class GenerationCache:
    """Values by their keys, each with the generations at which it was made.

    The value that was put first is dropped first. An LRU cache would also note each reading, which
    costs more than making a value again now and then.
    """

    def __init__(self, size: int = MAX_ENTRIES, weigh: Callable[[Any], int] = lambda _: 1) -> None:
        """Keep values of `size` together, by default so many values."""
        self._size = size
        self._weigh = weigh
        self._weight = 0
        self._entries: dict[Hashable, tuple[object, Any]] = {}
        self._lock = Lock()

    def get(self, key: Hashable, generations: object) -> Any:
        """Return the value of `key` that was made at `generations`, or `None`."""
        known = self._entries.get(key)
        return known[1] if known is not None and known[0] == generations else None

    def entry(self, key: Hashable) -> tuple[Any, Any] | None:
        """Return the generations and the value of `key`, which may be outdated, or `None`."""
        return self._entries.get(key)

    def put(self, key: Hashable, generations: object, value: object) -> None:
        weight = self._weigh(value)
        with self._lock:
            if key in self._entries:
                self._drop(key)
            while self._entries and self._weight + weight > self._size:
                self._drop(next(iter(self._entries)))
            self._entries[key] = (generations, value)
            self._weight += weight

    def _drop(self, key: Hashable) -> None:
        _, value = self._entries.pop(key)
        self._weight -= self._weigh(value)
