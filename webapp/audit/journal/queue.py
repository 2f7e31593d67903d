"""What waits for a journal's thread: handed in by many, taken by one."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock
from time import monotonic

from webapp.audit.event import AuditEvent

LINGER = 0.05
"""Seconds that the note of a beginning may wait to be written together with its end, which mostly
comes sooner."""

REST = 1.0
"""Seconds without anything to do until the thread sleeps, and is woken for a beginning."""

WAITING_MAX = 10_000
"""Requests that may wait in memory for a disk that hangs or fails."""


class Full(Exception):
    """Too much waits already."""


def taken_lock() -> Lock:
    lock = Lock()
    lock.acquire()
    return lock


@dataclass(eq=False, slots=True)
class WriteRequest:
    """What one request wants written, and what became of it."""

    begun: Sequence[AuditEvent] = ()
    finalized: Sequence[AuditEvent] = ()
    done: "Lock | None" = None
    """Taken until it is on disk, for somebody who waits for that: it is the cheapest of signals."""
    late: bool = False
    """Nobody does, and it is tried until it is there."""
    at: float = field(default_factory=monotonic)
    taken: bool = False
    """It is being written."""
    given_up: bool = False
    """Before that, whoever awaited it went, to say something else."""
    error: Exception | None = None


class WriteQueue:
    """`ensure_taken` is called before something comes in, and may raise: then nothing does."""

    def __init__(self, ensure_taken: Callable[[], None]) -> None:
        self._ensure_taken = ensure_taken
        self.lock = Lock()
        """Held while something comes in: the thread that is to take it must not end meanwhile."""
        self._writes: SimpleQueue[WriteRequest | None] = SimpleQueue()
        """None among them is nothing but a reason to read."""
        self._begun: dict[int, WriteRequest] = {}
        """Accesses that have begun, which the file does not know of, by the integers of their
        ids."""
        self._given_up = 0
        """Requests that wait although they were given up."""
        self.late: list[WriteRequest] = []
        """What is to be tried again. For the thread."""
        self.closing = False
        """All is to be taken, since the thread is to end."""
        self._active_at = 0.0
        self._is_asleep = False

    def put(self, write: WriteRequest) -> None:
        """Raises `Full`."""
        with self.lock:
            self._ensure_room()
            self._ensure_taken()
            self._writes.put(write)

    def put_begun(self, event: AuditEvent) -> None:
        """To be taken with the event's end, or alone LINGER later; raises `Full`."""
        with self.lock:
            self._ensure_room()
            self._ensure_taken()
            self._begun[event.id.int] = WriteRequest(begun=[event])
        if self._is_asleep:
            self.wake()

    def give_up(self, write: WriteRequest) -> None:
        """Leave it out, unless it is being written."""
        with self.lock:
            if not write.taken:
                write.given_up, write.begun, write.finalized = True, (), ()
                self._given_up += 1

    def wake(self) -> None:
        self._writes.put(None)

    @property
    def is_empty(self) -> bool:
        """But for what is late."""
        return not self._begun and not self._writes.qsize()

    def take(self) -> list[WriteRequest]:
        """What is to be written now, beginnings first, as soon as there is something to do; what is
        late is among `late` from now on."""
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
        # Set before it accesses, so that whoever has something afterwards sees it.
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
        """Those that were not given up."""
        taken = []
        with self.lock:
            for write in found:
                if write is None:
                    continue
                if write.given_up:
                    self._given_up -= 1
                else:
                    write.taken = True
                    taken.append(write)
        return taken

    def _take_begun(self, waiting: Sequence[WriteRequest]) -> list[WriteRequest]:
        """The beginnings of what ends now, and those that have lingered."""
        ending = [event.id.int for write in waiting for event in write.finalized]
        taken = [self._begun.pop(key) for key in ending if key in self._begun]
        until = monotonic() - (0 if self.closing else LINGER)
        for key, write in list(self._begun.items()):
            if write.at > until:
                break
            taken.append(self._begun.pop(key))
        return taken
