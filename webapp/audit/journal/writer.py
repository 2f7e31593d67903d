"""What a journal's one thread does: number events, put them into its file, go on with another."""

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

import structlog
from prometheus_client import Counter

from webapp.audit.event import AuditEvent, EventOrigin, dump_event, event_mac
from webapp.audit.journal.file import JournalFile, create
from webapp.audit.journal.reader import Row

log = structlog.get_logger()

FAILURES = Counter("sightline_journal_failures_total", "Transactions that the disk refused.")

REMEMBERED = 10_000
"""Finalized events that a late second word about them is recognised for."""

CHECKPOINT, PER_TRANSACTION = 2**20, 2**14
"""Bytes that are written beside a file before they are folded into it, and what each transaction
takes of them, more or less, beyond its events."""


class JournalWriter:
    """Writes one file after another, in nothing but the thread that it belongs to.

    An event gets its number when it is first written, and keeps it, in whichever file it ends.
    """

    def __init__(self, directory: Path, key: bytes, max_bytes: int) -> None:
        self.file: JournalFile | None = None
        """The one written to at the moment; other threads may access which it is."""
        self._directory = directory
        self._key = key
        self._max_bytes = max_bytes
        self._written = 0
        self._next_number = 1
        self._next_place = 1
        # Events go by their ids' integers, which are much faster to find than the ids.
        self._numbers: dict[int, EventOrigin] = {}
        """Of the accesses that have begun and not ended, and of what a file failed to take."""
        self._places: dict[int, int] = {}
        """Where the accesses that have begun stand in the file."""
        self.has_left: set[int] = set()
        """Those that a file which failed since may hold as begun: who adopts that one may find the
        access to be interrupted."""
        self._finalized: OrderedDict[int, None] = OrderedDict()

    def put(
        self, begun: Iterable[AuditEvent], finalized: Iterable[AuditEvent], *, durable: bool
    ) -> None:
        """All of them in one transaction; what was finalized before stays as it is.

        Raises `OSError` or `sqlite3.Error` where the disk refuses, and then nothing is finalized.
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
        try:
            self.file.write(rows, forgotten=ended, durable=durable)
        except sqlite3.Error as error:
            _note_failure(error)
            if not _is_full(error):
                self._numbers |= numbers  # since nobody can say whether the file has them
                self.has_left |= numbers.keys()
                self.leave()
            raise
        self._next_number = unused
        self._note_put(dict(zip(events, rows, strict=True)), numbers)

    def forget(self, forgotten: Iterable[tuple[JournalFile, Sequence[int]]]) -> None:
        """Remove places from the files they belong to, as far as that is still the one here."""
        places = [place for file, some in forgotten if file is self.file for place in some]
        if not places or self.file is None:
            return
        try:
            self.file.write(forgotten=places, durable=False)
        except sqlite3.Error as error:
            _note_failure(error)
            self.leave()  # from a full disk too: as a whole it can go without anything written
        else:
            self._written += PER_TRANSACTION

    def checkpoint(self) -> None:
        """Fold what was written into the file, when that is worth while."""
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
        """Go on with a new file: what the kernel failed to write once, it may not write again, and
        a later fsync would not tell. The accesses that are open stay in the old one."""
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
        """The number of each event, that which it has or the next; and the next after them."""
        unused = count(self._next_number)
        numbers = {
            key: self._numbers.get(key) or EventOrigin(journal, next(unused)) for key in keys
        }
        return numbers, next(unused)

    def _row(self, place: int, event: AuditEvent, origin: EventOrigin, *, finalized: bool) -> Row:
        data = dump_event(replace(event, origin=origin))
        return Row(place, str(event.id), finalized, data, event_mac(data, self._key))

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
    """Nothing was written then, and what is there is as good as before."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _note_failure(error: Exception) -> None:
    FAILURES.inc()
    log.error("journal_failed", exc_info=error)
