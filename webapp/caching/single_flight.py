"""Lets one thread at a time compute a value while the others wait for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock


class SingleFlight:
    """The keys that threads of this process are filling."""

    def __init__(self) -> None:
        self._filling: dict[str, Event] = {}
        self._lock = Lock()

    @contextmanager
    def enter(self, key: str) -> Iterator[Event | None]:
        """Fill `key` in the block if this yields `None`.

        Otherwise another thread fills it, and sets the event when it is done.
        """
        done = self.acquire(key)
        try:
            yield done
        finally:
            if done is None:
                self.release(key)

    def acquire(self, key: str) -> Event | None:
        """`None` for the thread that is to fill the key, and to call `release`."""
        with self._lock:
            done = self._filling.get(key)
            if done is None:
                self._filling[key] = Event()
            return done

    def release(self, key: str) -> None:
        with self._lock:
            self._filling.pop(key).set()
