"""The writer of a journal: its thread numbers events and writes them to one file after another."""

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

import structlog
from prometheus_client import Counter

from webapp.audit.event import AuditEvent, EventOrigin, dump_event
from webapp.audit.journal.file import JournalFile, Notes, create
from webapp.audit.journal.reader import Row
from webapp.audit.signature import Sign
from webapp.audit.size import MAX_STORED, EventTooLarge

log = structlog.get_logger()

FAILURES = Counter("sightline_journal_failures_total", "Transactions that the disk refused.")

REMEMBERED = 10_000
"""Finalized events whose ids are kept, so that a second, late write of one is ignored."""

CHECKPOINT, PER_TRANSACTION = 2**20, 2**14
"""Bytes of the write-ahead log before a checkpoint, and roughly what each transaction adds to them
beyond its events."""


class JournalWriter:
    """Writes events to one file after another, in the journal's thread only.

    An event gets its number when it is first written. It keeps that number, even if it ends in
    another file.
    """

    def __init__(self, directory: Path, sign: Sign, max_bytes: int) -> None:
        self.file: JournalFile | None = None
        """The file that is written to now; other threads may read this attribute."""
        self._directory = directory
        self._sign = sign
        self._max_bytes = max_bytes
        self._written = 0
        self._next_number = 1
        self._next_place = 1
        # The keys are the integers of event ids, which are found much faster than UUIDs.
        self._numbers: dict[int, EventOrigin] = {}
        """The numbers of accesses that have not ended, and of events that a file failed to take."""
        self._places: dict[int, int] = {}
        """The places in the file of accesses that have not ended."""
        self.has_left: set[int] = set()
        """Accesses that a failed file may hold as begun: the process that adopts the file may
        report them as interrupted."""
        self._finalized: OrderedDict[int, None] = OrderedDict()

    def put(
        self, begun: Iterable[AuditEvent], finalized: Iterable[AuditEvent], *, durable: bool
    ) -> None:
        """Write events in one transaction, without those that were finalized before.

        Raises `OSError` or `sqlite3.Error` where the disk refuses. Nothing is finalized then.
        """
        if self.file is None:
            self.file = self._create()
        ending = {event.id.int: event for event in finalized if event.id.int not in self._finalized}
        beginning = {
            key: event
            for event in begun
            if (key := event.id.int) not in self._places and key not in self._finalized
        }
        events = beginning | ending
        numbers, unused = self._number(events, self.file.origin)
        rows = [
            self._row(place, event, numbers[key], finalized=key in ending)
            for place, (key, event) in enumerate(events.items(), self._next_place)
        ]
        ended = [self._places[key] for key in ending if key in self._places]
        sets = {
            excluded.digest: excluded.members
            for event in events.values()
            if (excluded := event.decision.excluded) is not None
        }
        try:
            self.file.write(rows, forgotten=ended, sets=sets, durable=durable)
        except sqlite3.Error as error:
            _note_failure(error)
            if not _is_full(error):
                self._numbers |= numbers  # the file may or may not have them
                self.has_left |= numbers.keys()
                self.leave()
            raise
        self._next_number = unused
        self._note_put(dict(zip(events, rows, strict=True)), numbers)

    def note(self, notes: Iterable[tuple[JournalFile, Notes]]) -> None:
        """Note what the ledger has of the current file's rows; earlier files are ignored."""
        own = [some for file, some in notes if file is self.file]
        if not own or self.file is None:
            return
        try:
            self.file.note(own)
        except sqlite3.Error as error:
            _note_failure(error)
            self.leave()  # even if the disk is full: removing a whole file needs no space
        else:
            self._written += PER_TRANSACTION

    def checkpoint(self) -> None:
        """Checkpoint the file after CHECKPOINT bytes of writes."""
        if self.file is None or self._written < CHECKPOINT:
            return
        self._written = 0
        try:
            self.file.checkpoint()
        except sqlite3.Error as error:
            _note_failure(error)
            if not _is_full(error):
                self.leave()

    def leave(self) -> None:
        """Close the file, so that the next write creates a new one.

        After a failed write, the kernel may not write the same pages again, and a later fsync would
        not report that. Accesses that have not ended stay in the old file.
        """
        self.has_left |= self._places.keys()
        self._places.clear()
        file, self.file = self.file, None
        try:
            if file is not None:
                file.close()
        except (sqlite3.Error, OSError) as error:
            log.error("journal_not_closed", exc_info=error)

    def _create(self) -> JournalFile:
        try:
            file = create(self._directory, uuid4(), self._max_bytes)
        except (sqlite3.Error, OSError) as error:
            _note_failure(error)
            raise
        self._next_number = self._next_place = 1
        self._written = 0
        return file

    def _number(self, keys: Iterable[int], journal: UUID) -> tuple[dict[int, EventOrigin], int]:
        """Return the number of each event, a new one where it has none, and the next unused one."""
        unused = count(self._next_number)
        numbers = {
            key: self._numbers.get(key) or EventOrigin(journal, next(unused)) for key in keys
        }
        return numbers, next(unused)

    def _row(self, place: int, event: AuditEvent, origin: EventOrigin, *, finalized: bool) -> Row:
        data = dump_event(replace(event, origin=origin))
        if len(data) > MAX_STORED:
            raise EventTooLarge(f"{event.id} has {len(data)} bytes")
        excluded = event.decision.excluded
        return Row(
            place,
            str(event.id),
            finalized,
            data,
            self._sign(data),
            excluded.digest if excluded else None,
        )

    def _note_put(self, rows: Mapping[int, Row], numbers: Mapping[int, EventOrigin]) -> None:
        self._next_place += len(rows)
        self._written += PER_TRANSACTION + sum([len(row.event) for row in rows.values()])
        for key, row in rows.items():
            if row.finalized:
                self._numbers.pop(key, None)
                self._places.pop(key, None)
                self.has_left.discard(key)
                self._finalized[key] = None
            else:
                self._numbers[key] = numbers[key]
                self._places[key] = row.place
        while len(self._finalized) > REMEMBERED:
            self._finalized.popitem(last=False)


def _is_full(error: sqlite3.Error) -> bool:
    """Return whether the disk is full: nothing was written then, and the file is still sound."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _note_failure(error: Exception) -> None:
    FAILURES.inc()
    log.error("journal_failed", exc_info=error)
