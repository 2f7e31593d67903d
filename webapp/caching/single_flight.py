"""Lets one thread at a time do what many want, while the others wait for it."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from threading import Event, Lock


class SingleFlight:
    """The keys that threads of this process are at work on."""

    def __init__(self) -> None:
        self._working: dict[Hashable, Event] = {}
        self._lock = Lock()

    @contextmanager
    def enter(self, key: Hashable) -> Iterator[Event | None]:
        """Do the work of `key` in the block if this yields `None`.

        Otherwise another thread does it, and sets the event when it is done.
        """
        done = self.acquire(key)
        try:
            yield done
        finally:
            if done is None:
                self.release(key)

    def acquire(self, key: Hashable) -> Event | None:
        """`None` for the thread that is to do the work, and to call `release`."""
        with self._lock:
            done = self._working.get(key)
            if done is None:
                self._working[key] = Event()
            return done

    def release(self, key: Hashable) -> None:
        with self._lock:
            self._working.pop(key).set()
