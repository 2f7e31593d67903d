"""What a process knows for as long as nothing has changed."""

from collections.abc import Hashable
from threading import Lock
from typing import Any

REMEMBERED = 10_000


class GenerationCache:
    """Values by their keys, each with the generations that it is good for.

    Those that were not put anew for the longest are forgotten first: to note each reading too, as
    an LRU does, would cost more than to make a value again now and then.
    """

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        self._entries: dict[Hashable, tuple[object, Any]] = {}
        self._lock = Lock()

    def get(self, key: Hashable, generations: object) -> Any:
        """The value, if these generations are its own; `None` where there is none."""
        known = self._entries.get(key)
        return known[1] if known is not None and known[0] == generations else None

    def entry(self, key: Hashable) -> tuple[Any, Any] | None:
        """The generations and the value, be it good or not: until they are compared, a hint."""
        return self._entries.get(key)

    def put(self, key: Hashable, generations: object, value: object) -> None:
        with self._lock:
            self._entries.pop(key, None)
            while len(self._entries) >= self._size:
                del self._entries[next(iter(self._entries))]
            self._entries[key] = (generations, value)
