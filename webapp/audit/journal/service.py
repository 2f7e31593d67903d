"""The journal: an event is durable on this host before a byte of its answer leaves.

One thread of the process writes, so that the requests that wait share a transaction and its fsync,
and so that what hangs is that thread, never a request. Each process has a file of its own, made at
its first event. `relay` brings what is in the files to the ledger.
"""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, current_thread
from time import monotonic

import structlog

from webapp.audit.event import AuditEvent
from webapp.audit.journal.file import JournalFile
from webapp.audit.journal.queue import Full, Inbox, Parcel, taken_lock
from webapp.audit.journal.writer import JournalWriter
from webapp.forking import after_fork

log = structlog.get_logger()

TOO_MUCH = "too much waits for the journal's disk"
LATE = 1.0
"""Seconds until what could not be written, and nobody waits for, is tried again."""


class JournalFailed(Exception):
    """An event is not known to be durable: nothing may be served on it."""


class Journal:
    """One process's journal; safe for use by many threads, and by the children of a fork.

    `on_settled` is called, on the writing thread, when events have become durable.
    """

    def __init__(self, directory: Path, key: bytes, max_bytes: int) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.on_settled: Callable[[], None] = lambda: None
        self._key = key
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        """As in a process that has just begun."""
        self._inbox = Inbox(self._ensure_thread)
        self._late_at = 0.0
        self._forgotten: SimpleQueue[tuple[JournalFile, Sequence[int]]] = SimpleQueue()
        self._thread: Thread | None = None
        self._writer = JournalWriter(self.directory, self._key, self.max_bytes)

    def begin(self, event: AuditEvent) -> None:
        """Note that a look begins: should the process die, it will stand in the ledger as what
        `event` says. That is certain LINGER later. Raises `JournalFailed` when too much waits."""
        try:
            self._inbox.put_begun(event)
        except Full as error:
            raise JournalFailed(TOO_MUCH) from error

    def begin_durably(self, event: AuditEvent, within: float) -> None:
        """The same, on disk when this returns; raises `JournalFailed` after `within` seconds."""
        self._await(Parcel(begun=[event], done=taken_lock()), within)

    def settle(self, events: Sequence[AuditEvent], within: float) -> None:
        """Return once the events are durable, as they will stand in the ledger.

        Raises `JournalFailed`, after `within` seconds at the latest: say then with `settle_later`
        what became of the looks instead.
        """
        self._await(Parcel(settled=events, done=taken_lock()), within)

    def settle_later(self, events: Sequence[AuditEvent]) -> None:
        """Write, as soon as it can be, how looks ended that could not be settled in time.

        Raises `JournalFailed` when too much waits: then they are not recorded.
        """
        self._hand_in(Parcel(settled=events, late=True))

    def forget(self, file: JournalFile, places: Sequence[int]) -> None:
        """Remove what the ledger has, soon, where `file` is still the one that is written to."""
        self._forgotten.put((file, places))
        self._inbox.wake()

    @property
    def file(self) -> JournalFile | None:
        """The file written to at the moment; none before the first event."""
        return self._writer.file

    @property
    def held(self) -> int:
        """Events that it has and the ledger is not known to have."""
        file = self._writer.file
        return 0 if file is None else file.held

    def close(self, within: float) -> None:
        """Let go of the file once all that waits is written, or `within` seconds are over.

        What comes later begins another.
        """
        with self._inbox.lock:
            thread = self._thread
            self._inbox.closing = thread is not None
        self._inbox.wake()
        if thread is not None:
            thread.join(within)

    def _hand_in(self, parcel: Parcel) -> None:
        try:
            self._inbox.put(parcel)
        except Full as error:
            raise JournalFailed(TOO_MUCH) from error

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = self._start()

    def _start(self) -> Thread:
        thread = Thread(target=self._run, name="journal", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise JournalFailed("no thread could be started") from error
        return thread

    def _await(self, parcel: Parcel, within: float) -> None:
        assert parcel.done is not None  # noqa: S101 - for mypy
        self._hand_in(parcel)
        if not parcel.done.acquire(timeout=within):
            self._inbox.give_up(parcel)
            raise JournalFailed("the journal's disk does not answer in time")
        if parcel.error is not None:
            raise JournalFailed("the journal's disk refused the events") from parcel.error

    def _run(self) -> None:
        """The writing thread."""
        try:
            self._write_all()
        finally:
            with self._inbox.lock:
                if self._thread is current_thread():  # it did not end by itself: another will come
                    self._thread = None

    def _write_all(self) -> None:
        while True:
            closing = self._inbox.closing  # as it was before: then all has been taken
            waiting = self._inbox.take()
            self._writer.forget(self._take_forgotten())
            self._write(waiting)
            # Apart: what the disk keeps refusing holds up nobody who waits.
            self._write(self._take_late(everything=closing))
            self._writer.checkpoint()
            if closing:
                self._writer.leave()
                if self._has_ended():
                    return

    def _take_forgotten(self) -> list[tuple[JournalFile, Sequence[int]]]:
        return [self._forgotten.get_nowait() for _ in range(self._forgotten.qsize())]

    def _take_late(self, *, everything: bool) -> list[Parcel]:
        late: list[Parcel] = []
        if everything or self._late_at <= monotonic():
            late, self._inbox.late = self._inbox.late, late
        return late

    def _has_ended(self) -> bool:
        with self._inbox.lock:
            if not self._inbox.is_empty:
                return False
            if self._inbox.late:
                log.error("journal_closed_with_events_unwritten", parcels=len(self._inbox.late))
            self._thread = None
            self._inbox.closing = False
            return True

    def _write(self, parcels: Sequence[Parcel]) -> None:
        if self._writer.has_left:
            parcels = [parcel for parcel in parcels if not self._is_refused(parcel)]
        if not parcels:
            return
        try:
            self._put(parcels)
        except (sqlite3.Error, OSError) as error:
            self._finish(parcels, error)
            self._keep(parcels)
        except Exception as error:  # one of them is nothing that can be written down
            if len(parcels) > 1:
                for parcel in parcels:
                    self._write([parcel])
                return
            log.error("journal_cannot_write", exc_info=error)
            self._finish(parcels, error)
        else:
            self._finish(parcels, None)
            if any(parcel.settled for parcel in parcels):
                self._tell()

    def _put(self, parcels: Sequence[Parcel]) -> None:
        self._writer.put(
            [event for parcel in parcels for event in parcel.begun],
            [event for parcel in parcels for event in parcel.settled],
            durable=any(parcel.done or parcel.late for parcel in parcels),
        )

    def _is_refused(self, parcel: Parcel) -> bool:
        """Nothing is served on a look whose record may say that it was interrupted."""
        left = self._writer.has_left
        if parcel.late or not any(event.id.int in left for event in parcel.settled):
            return False
        self._finish([parcel], JournalFailed("it began in a file that failed since"))
        return True

    def _finish(self, parcels: Sequence[Parcel], error: Exception | None) -> None:
        for parcel in parcels:
            parcel.error = error
            if parcel.done is not None:
                parcel.done.release()

    def _keep(self, parcels: Sequence[Parcel]) -> None:
        """What nobody waits for is tried again: a beginning too, since it may have got a number."""
        again = [parcel for parcel in parcels if parcel.done is None]
        if again:
            self._inbox.late[:0] = again
            self._late_at = monotonic() + LATE

    def _tell(self) -> None:
        try:
            self.on_settled()
        except Exception as error:  # what is written is written
            log.error("journal_not_relayed", exc_info=error)
