"""The journal, which makes an event durable on this host before its answer leaves.

One thread of the process writes. So the requests that wait share a transaction and its fsync, and a
disk that hangs blocks that thread only, never a request. Each process has a file of its own, made
at its first event. The relay brings the events in the files to the ledger.
"""

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, current_thread
from time import monotonic

import structlog

from webapp.audit.event import AuditEvent
from webapp.audit.forking import after_fork
from webapp.audit.journal.file import JournalFile, Notes
from webapp.audit.journal.queue import Full, WriteQueue, WriteRequest
from webapp.audit.journal.writer import JournalWriter
from webapp.audit.signature import Sign

log = structlog.get_logger()

TOO_MUCH = "too much waits for the journal's disk"
LATE = 1.0
"""Seconds until a failed write that nobody waits for is tried again."""


class JournalFailed(Exception):
    """An event is not known to be durable, so the access that it records must not be served."""


class Writing:
    """Events on their way to the disk."""

    def __init__(self, queue: WriteQueue, write: WriteRequest, done: Future[None]) -> None:
        self._queue = queue
        self._write = write
        self._done = done

    def when_done(self, call: Callable[[], None]) -> None:
        """Have `call` called once the events are durable, or are known not to be."""
        self._done.add_done_callback(lambda _: call())

    def wait(self, within: float) -> None:
        """Return once the events are durable; raises `JournalFailed`, after `within` seconds at the
        latest. The events are taken back then, unless they are being written."""
        try:
            self._done.result(timeout=within)
        except TimeoutError as error:
            self._queue.give_up(self._write)
            raise JournalFailed("the journal's disk does not answer in time") from error
        except Exception as error:
            raise JournalFailed("the journal's disk refused the events") from error


class Journal:
    """The journal of one process, safe for many threads and for the children of a fork.

    `sign` makes an event's origin signature. `on_finalized` is called, on the writing thread, when
    events have become durable.
    """

    def __init__(self, directory: Path, sign: Sign, max_bytes: int) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.on_finalized: Callable[[], None] = lambda: None
        self._sign = sign
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        """Set the state of a process that has just started."""
        self._queue = WriteQueue(self._ensure_thread)
        self._late_at = 0.0
        self._notes: SimpleQueue[tuple[JournalFile, Notes]] = SimpleQueue()
        self._thread: Thread | None = None
        self._writer = JournalWriter(self.directory, self._sign, self.max_bytes)

    def begin(self, event: AuditEvent) -> None:
        """Note that an access begins, within LINGER seconds.

        If the process dies after that, `event` will stand in the ledger. Raises `JournalFailed`
        when too much waits.
        """
        try:
            self._queue.put_begun(event)
        except Full as error:
            raise JournalFailed(TOO_MUCH) from error

    def begin_durably(self, event: AuditEvent, within: float) -> None:
        """Note on disk that an access begins; raises `JournalFailed` after `within` seconds."""
        self._write_durably(begun=[event]).wait(within)

    def finalize(self, events: Sequence[AuditEvent], within: float) -> None:
        """Record how accesses ended, and return once the events are durable.

        Raises `JournalFailed`, after `within` seconds at the latest. The caller then refuses the
        accesses, and records that with `finalize_later`.
        """
        self.start_finalizing(events).wait(within)

    def start_finalizing(self, events: Sequence[AuditEvent]) -> Writing:
        """Begin what `finalize` does; raises `JournalFailed` when too much waits."""
        return self._write_durably(finalized=events)

    def finalize_later(self, events: Sequence[AuditEvent]) -> None:
        """Record, once the disk allows it, how accesses ended, without waiting for it.

        Raises `JournalFailed` when too much waits: the events are not recorded then.
        """
        self._hand_in(WriteRequest(finalized=events, late=True))

    def note(self, file: JournalFile, notes: Notes) -> None:
        """Have the thread note what the ledger has, if `file` is still the one it writes to."""
        self._notes.put((file, notes))
        self._queue.wake()

    @property
    def file(self) -> JournalFile | None:
        """The file that is written to now; `None` before the first event."""
        return self._writer.file

    @property
    def held(self) -> int:
        """The number of events in the file that the ledger is not known to have."""
        file = self._writer.file
        return 0 if file is None else file.held

    def close(self, within: float) -> None:
        """Close the file once all that waits is written, or `within` seconds are over.

        A later event begins a new file.
        """
        with self._queue.lock:
            thread = self._thread
            self._queue.closing = thread is not None
        self._queue.wake()
        if thread is not None:
            thread.join(within)

    def _write_durably(
        self, begun: Sequence[AuditEvent] = (), finalized: Sequence[AuditEvent] = ()
    ) -> Writing:
        done: Future[None] = Future()
        write = WriteRequest(begun, finalized, done)
        self._hand_in(write)
        return Writing(self._queue, write, done)

    def _hand_in(self, write: WriteRequest) -> None:
        try:
            self._queue.put(write)
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

    def _run(self) -> None:
        """Run the writing thread."""
        try:
            self._write_all()
        finally:
            with self._queue.lock:
                if self._thread is current_thread():  # an error ended it
                    self._thread = None

    def _write_all(self) -> None:
        while True:
            closing = self._queue.closing  # read before `take`, which then takes everything
            waiting = self._queue.take()
            self._writer.note(self._take_notes())
            self._write(waiting)
            # Separately: a write that the disk keeps refusing must not delay those that wait.
            self._write(self._take_late(everything=closing))
            self._writer.checkpoint()
            if closing:
                self._writer.leave()
                if self._has_ended():
                    return

    def _take_notes(self) -> list[tuple[JournalFile, Notes]]:
        return [self._notes.get_nowait() for _ in range(self._notes.qsize())]

    def _take_late(self, *, everything: bool) -> list[WriteRequest]:
        late: list[WriteRequest] = []
        if everything or self._late_at <= monotonic():
            late, self._queue.late = self._queue.late, late
        return late

    def _has_ended(self) -> bool:
        with self._queue.lock:
            if not self._queue.is_empty:
                return False
            if self._queue.late:
                log.error("journal_closed_with_events_unwritten", writes=len(self._queue.late))
            self._thread = None
            self._queue.closing = False
            return True

    def _write(self, writes: Sequence[WriteRequest]) -> None:
        if self._writer.has_left:
            writes = [write for write in writes if not self._is_refused(write)]
        if not writes:
            return
        try:
            self._put(writes)
        except (sqlite3.Error, OSError) as error:
            self._finish(writes, error)
            self._keep(writes)
        except Exception as error:  # one of the events cannot be written
            if len(writes) > 1:
                for write in writes:
                    self._write([write])
                return
            log.error("journal_cannot_write", exc_info=error)
            self._finish(writes, error)
        else:
            self._finish(writes, None)
            if any(write.finalized for write in writes):
                self._tell()

    def _put(self, writes: Sequence[WriteRequest]) -> None:
        self._writer.put(
            [event for write in writes for event in write.begun],
            [event for write in writes for event in write.finalized],
            durable=any(write.done or write.late for write in writes),
        )

    def _is_refused(self, write: WriteRequest) -> bool:
        """Fail a write request whose access may stand in a failed file as interrupted.

        Such an access must not be served.
        """
        left = self._writer.has_left
        if write.late or not any(event.id.int in left for event in write.finalized):
            return False
        self._finish([write], JournalFailed("it began in a file that failed since"))
        return True

    def _finish(self, writes: Sequence[WriteRequest], error: Exception | None) -> None:
        for write in writes:
            if write.done is None:
                continue
            if error is None:
                write.done.set_result(None)
            else:
                write.done.set_exception(error)

    def _keep(self, writes: Sequence[WriteRequest]) -> None:
        """Try those again that nobody waits for: beginnings too, since they may have a number."""
        again = [write for write in writes if write.done is None]
        if again:
            self._queue.late[:0] = again
            self._late_at = monotonic() + LATE

    def _tell(self) -> None:
        try:
            self.on_finalized()
        except Exception as error:  # the events are durable in any case
            log.error("journal_not_relayed", exc_info=error)
