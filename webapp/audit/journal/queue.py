"""The queue of a journal's thread: filled by many threads, emptied by one."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock
from time import monotonic

from webapp.audit.event import AuditEvent

LINGER = 0.05
"""Seconds that the beginning of an access may wait to be written together with its end.

Most accesses end within that time.
"""

REST = 1.0
"""Seconds without work after which the thread sleeps until the next beginning wakes it."""

WAITING_MAX = 10_000
"""Write requests that may wait in memory for a disk that hangs or fails."""


class Full(Exception):
    """WAITING_MAX write requests wait already."""


@dataclass(eq=False, slots=True)
class WriteRequest:
    """Events that one HTTP request hands to the journal's thread."""

    begun: Sequence[AuditEvent] = ()
    finalized: Sequence[AuditEvent] = ()
    done: Future[None] | None = None
    """Set once the events are on disk, or the write has failed; `None` where nobody waits."""
    late: bool = False
    """Whether the write is tried again until the events are on disk."""
    at: float = field(default_factory=monotonic)


class WriteQueue:
    """The write requests of many threads, for the journal's one thread.

    `ensure_thread` is called before a write request is queued. Where it raises, nothing is queued.
    """

    def __init__(self, ensure_thread: Callable[[], None]) -> None:
        self._ensure_thread = ensure_thread
        self.lock = Lock()
        """Held while a write request is queued: the thread must not end before it takes it."""
        self._writes: SimpleQueue[WriteRequest | None] = SimpleQueue()
        """`None` only wakes the thread."""
        self._begun: dict[int, WriteRequest] = {}
        """Beginnings that are not in the file yet, by the integers of their events' ids."""
        self._given_up = 0
        """How many queued write requests nobody waits for any more."""
        self.late: list[WriteRequest] = []
        """Write requests that the thread is to try again."""
        self.closing = False
        """Whether everything is to be taken at once, since the thread is to end."""
        self._active_at = 0.0
        self._is_asleep = False

    def put(self, write: WriteRequest) -> None:
        """Queue a write request; raises `Full`."""
        with self.lock:
            self._ensure_room()
            self._ensure_thread()
            self._writes.put(write)

    def put_begun(self, event: AuditEvent) -> None:
        """Queue a beginning, to be written with its end or alone after LINGER; raises `Full`."""
        with self.lock:
            self._ensure_room()
            self._ensure_thread()
            self._begun[event.id.int] = WriteRequest(begun=[event])
        if self._is_asleep:
            self.wake()

    def give_up(self, write: WriteRequest) -> None:
        """Cancel a write request that nobody waits for any more, unless it is being written."""
        with self.lock:
            if write.done is not None and write.done.cancel():
                write.begun, write.finalized = (), ()
                self._given_up += 1

    def wake(self) -> None:
        self._writes.put(None)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, apart from late write requests."""
        return not self._begun and not self._writes.qsize()

    def take(self) -> list[WriteRequest]:
        """Wait for write requests, and return them, beginnings first; late ones go to `late`."""
        writes = self._take_found(self._wait())
        self.late += [write for write in writes if write.late]
        waiting = [write for write in writes if not write.late]
        return [*self._take_begun(waiting), *waiting]

    def _ensure_room(self) -> None:
        waiting = self._writes.qsize() - self._given_up + len(self._begun) + len(self.late)
        if waiting >= WAITING_MAX:
            raise Full

    def _wait(self) -> list[WriteRequest | None]:
        found: list[WriteRequest | None] = []
        # Set before the queue is read, so that a thread that adds something afterwards sees it.
        self._is_asleep = monotonic() - self._active_at > REST
        if self._begun or self.late or self.closing:
            self._is_asleep = False
        linger = 0 if self.closing else LINGER
        with suppress(Empty):
            found.append(self._writes.get(timeout=None if self._is_asleep else linger))
            self._active_at = monotonic()
        self._is_asleep = False
        found += [self._writes.get_nowait() for _ in range(self._writes.qsize())]
        return found

    def _take_found(self, found: Sequence[WriteRequest | None]) -> list[WriteRequest]:
        """Return the write requests that were not given up."""
        taken = []
        with self.lock:
            for write in found:
                if write is None:
                    continue
                if write.done is not None and not write.done.set_running_or_notify_cancel():
                    self._given_up -= 1
                else:
                    taken.append(write)
        return taken

    def _take_begun(self, waiting: Sequence[WriteRequest]) -> list[WriteRequest]:
        """Return the beginnings of accesses that end now, and those that waited for LINGER."""
        ending = [event.id.int for write in waiting for event in write.finalized]
        taken = [self._begun.pop(key) for key in ending if key in self._begun]
        until = monotonic() - (0 if self.closing else LINGER)
        for key, write in list(self._begun.items()):
            if write.at > until:
                break
            taken.append(self._begun.pop(key))
        return taken
