"""The check that the ledger is complete, and holds each event once.

Each journal numbers its events from 1 without a gap, so a number without an event is missing. So is
every number up to a journal's end, which this host has noted beside the database.
"""

import sqlite3
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Function, Over, Uuid, cast, func, or_, select
from sqlalchemy.orm import Session

from webapp.audit.append import find_committed
from webapp.audit.event import AuditEvent, EventError, load_event
from webapp.audit.journal import ends
from webapp.audit.journal.file import is_held, list_files
from webapp.audit.journal.reader import Row, read_all
from webapp.audit.models import AuditEventRow, ContradictionRow
from webapp.audit.signature import Keys, check_signature, load_journaled
from webapp.audit.signing_keys import read_keys
from webapp.db.deadline import long_statements

QUERY_KEYS = 1000
"""Keys in one query to the ledger."""


@dataclass(frozen=True)
class Missing:
    """Numbers of a journal for which neither the ledger nor a file on this host has an event."""

    journal: UUID
    first: int
    last: int
    after_request: str | None
    """The request of the event before the gap; `None` at the journal's beginning."""
    before_request: str | None
    """The request of the event after the gap; `None` at the journal's end."""


@dataclass(frozen=True)
class Waiting:
    """An event that is in a file on this host and not in the ledger."""

    journal: UUID
    seq: int
    event: UUID
    request: str
    surface: str
    actor: str
    outcome: str


@dataclass(frozen=True)
class Doubled:
    """An id, or a number of a journal, that several events have, where one event can have it."""

    id: UUID | None
    journal: UUID | None
    seq: int | None
    events: int


@dataclass(frozen=True)
class Contradiction:
    """An event that is kept beside the ledger, which has another in its place."""

    event: UUID
    received_at: datetime


@dataclass(frozen=True)
class Completeness:
    journals: int
    events: int
    missing: tuple[Missing, ...]
    doubled: tuple[Doubled, ...]
    contradictions: tuple[Contradiction, ...]
    waiting: tuple[Waiting, ...]
    ownerless: int
    """How many of the waiting events are in files that no running process holds."""
    forged: tuple[str, ...]
    """Rows of files that no web process has signed as they are."""
    unreadable: tuple[str, ...]
    """Files, and rows of files, that cannot be read."""

    @property
    def is_complete(self) -> bool:
        bad = self.forged or self.unreadable
        return not (self.missing or self.doubled or self.contradictions or bad)


def check_completeness(session: Session, directory: Path) -> Completeness:
    """Find the numbers that are neither in the ledger nor in the files in `directory`, and those
    that several events have.

    A number that another host's file still holds counts as missing.
    """
    with long_statements(session):
        return _compare(session, directory)


def _compare(session: Session, directory: Path) -> Completeness:
    events = session.scalars(select(func.count()).select_from(AuditEventRow)).one()
    # The ledger first: events move from the files to the ledger meanwhile.
    ledger = _read_ledger(session)
    files = _read_files(session, directory)
    _read_recorded_ends(directory, files)
    beyond = [*_beyond(ledger.last, files.held), *_lost_ends(ledger.last, files)]
    unexplained = [*_without([*ledger.gaps, *beyond], files.held)]
    missing = _without(unexplained, _committed_meanwhile(session, unexplained))
    return Completeness(
        journals=len(ledger.last),
        events=events,
        missing=tuple(missing),
        doubled=(*_doubled_ids(session), *_doubled_numbers(session)),
        contradictions=tuple(_contradictions(session)),
        waiting=tuple(files.waiting),
        ownerless=files.ownerless,
        forged=tuple(files.forged),
        unreadable=tuple(files.unreadable),
    )


def _doubled_ids(session: Session) -> Iterator[Doubled]:
    count = func.count()
    query = select(AuditEventRow.id, count).group_by(AuditEventRow.id).having(count > 1)
    for event_id, events in session.execute(query.order_by(AuditEventRow.id)):
        yield Doubled(event_id, None, None, events)


def _doubled_numbers(session: Session) -> Iterator[Doubled]:
    count = func.count(AuditEventRow.id.distinct())
    number = (AuditEventRow.origin_journal, AuditEventRow.origin_seq)
    query = select(*number, count).group_by(*number).having(count > 1)
    for journal, seq, events in session.execute(query.order_by(*number)):
        yield Doubled(None, journal, seq, events)


def _contradictions(session: Session) -> Iterator[Contradiction]:
    columns = (ContradictionRow.event_id, ContradictionRow.received_at)
    for row in session.execute(select(*columns).order_by(*columns)):
        yield Contradiction(row.event_id, row.received_at.astimezone(UTC))


_Numbers = Mapping[UUID, Mapping[int, str]]
"""The numbers of each journal that have an event, with the events' requests."""


@dataclass(frozen=True)
class _Ledger:
    gaps: list[Missing] = field(default_factory=list)
    last: dict[UUID, tuple[int, str]] = field(default_factory=dict)
    """The highest number of each journal, and its event's request."""


@dataclass
class _Files:
    held: defaultdict[UUID, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    ends: dict[UUID, int] = field(default_factory=dict)
    """The highest number of each journal that the ledger has had, as far as this host knows."""
    waiting: list[Waiting] = field(default_factory=list)
    ownerless: int = 0
    forged: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def _read_ledger(session: Session) -> _Ledger:
    """Return the gaps in the ledger's numbers, and the last number of each journal."""
    numbered = select(
        AuditEventRow.origin_journal.label("journal"),
        AuditEventRow.origin_seq.label("seq"),
        AuditEventRow.request_id.label("request"),
        _in_order(func.lag(AuditEventRow.origin_seq, 1, 0)).label("before"),
        _in_order(func.lag(AuditEventRow.request_id)).label("before_request"),
        _in_order(func.lead(AuditEventRow.origin_seq)).is_(None).label("is_last"),
    ).subquery()
    follows_gap = numbered.c.seq > numbered.c.before + 1
    ends = select(numbered).where(or_(follows_gap, numbered.c.is_last))
    found = _Ledger()
    for row in session.execute(ends.order_by(numbered.c.journal, numbered.c.seq)):
        if row.seq > row.before + 1:
            first, last = row.before + 1, row.seq - 1
            found.gaps.append(Missing(row.journal, first, last, row.before_request, row.request))
        if row.is_last:
            found.last[row.journal] = (row.seq, row.request)
    return found


def _in_order(function: Function[Any]) -> Over[Any]:
    """Apply a window function to the events of the same journal, ordered by number."""
    return function.over(
        partition_by=AuditEventRow.origin_journal, order_by=AuditEventRow.origin_seq
    )


def _read_files(session: Session, directory: Path) -> _Files:
    found = _Files()
    for path in list_files(directory):
        try:
            rows, noted = read_all(path), ends.read_noted(path)
        except sqlite3.Error:
            if path.exists():  # otherwise its process has emptied and removed it meanwhile
                found.unreadable.append(path.name)
            continue
        found.ends = ends.combine(found.ends, noted)
        before, is_owned = len(found.waiting), is_held(path)
        for start in range(0, len(rows), QUERY_KEYS):
            _add_rows(session, rows[start : start + QUERY_KEYS], found)
        found.ownerless += 0 if is_owned else len(found.waiting) - before
    return found


def _read_recorded_ends(directory: Path, found: _Files) -> None:
    try:
        found.ends = ends.combine(found.ends, ends.read_recorded(directory))
    except sqlite3.Error:
        found.unreadable.append(ends.NAME)


def _add_rows(session: Session, rows: list[Row], found: _Files) -> None:
    """Add the numbers of a file's rows to `found`, and the events that the ledger does not have.

    A row with a wrong signature holds no number: a worker would put it aside, and not commit it.
    """
    committed = find_committed(session, [row.key for row in rows])
    keys = read_keys(session)
    for row in rows:
        try:
            event = load_event(row.event)
        except EventError:
            found.unreadable.append(f"row {row.place}, event {row.id}")
            continue
        if row.key not in committed and not _is_journaled(row, keys):
            found.forged.append(f"row {row.place}, event {row.id}")
            continue
        waiting = _waiting(event)
        found.held[waiting.journal][waiting.seq] = waiting.request
        if row.key not in committed:
            found.waiting.append(waiting)


def _is_journaled(row: Row, keys: Keys) -> bool:
    try:
        load_journaled(row.event, check_signature(row.event, row.signature, keys))
    except EventError:
        return False
    return True


def _waiting(event: AuditEvent) -> Waiting:
    assert event.origin is not None  # noqa: S101 - `load_event` refuses an event without one
    return Waiting(
        event.origin.journal,
        event.origin.seq,
        event.id,
        event.request.id,
        event.surface,
        event.who,
        event.outcome,
    )


def _beyond(last: Mapping[UUID, tuple[int, str]], held: _Numbers) -> Iterator[Missing]:
    """Yield the gaps between each journal's last event in the ledger and the last one in a file."""
    for journal, numbers in held.items():
        known, after = last.get(journal, (0, None))
        highest = max(numbers)
        if highest > known:
            yield Missing(journal, known + 1, highest, after, numbers[highest])


def _lost_ends(last: Mapping[UUID, tuple[int, str]], files: _Files) -> Iterator[Missing]:
    """Yield the gaps between the last event of each journal, wherever it is, and the journal's end.

    Only a ledger that has lost events has such a gap.
    """
    for journal, end in files.ends.items():
        known, after = last.get(journal, (0, None))
        held = files.held.get(journal)
        if held and max(held) > known:
            known, after = max(held), held[max(held)]
        if end > known:
            yield Missing(journal, known + 1, end, after, None)


def _committed_meanwhile(session: Session, gaps: Iterable[Missing]) -> _Numbers:
    """Return the numbers whose events moved from a file to the ledger during the check."""
    found: defaultdict[UUID, dict[int, str]] = defaultdict(dict)
    columns = (AuditEventRow.origin_seq, AuditEventRow.request_id)
    for gap in gaps:
        between = AuditEventRow.origin_seq.between(gap.first, gap.last)
        inside = select(*columns).where(AuditEventRow.origin_journal == gap.journal, between)
        for seq, request in session.execute(inside):
            found[gap.journal][seq] = request
    return found


def _without(gaps: Iterable[Missing], known: _Numbers) -> Iterator[Missing]:
    """Yield the parts of the gaps whose numbers are not in `known`."""
    ordered = {journal: sorted(numbers) for journal, numbers in known.items()}
    for gap in gaps:
        numbers = ordered.get(gap.journal, [])
        inside = numbers[bisect_left(numbers, gap.first) : bisect_right(numbers, gap.last)]
        first, after = gap.first, gap.after_request
        for seq in inside:
            request = known[gap.journal][seq]
            if first < seq:
                yield Missing(gap.journal, first, seq - 1, after, request)
            first, after = seq + 1, request
        if first <= gap.last:
            yield Missing(gap.journal, first, gap.last, after, gap.before_request)


def find_lost_ends(session: Session, directory: Path) -> dict[UUID, int]:
    """Return the journals of this host of which the ledger has had more than it has now.

    Each comes with the highest number that it has had. Raises `sqlite3.Error` where a file cannot
    be read.
    """
    known = ends.read_recorded(directory)
    for path in list_files(directory):
        known = ends.combine(known, ends.read_noted(path))
    journal = func.unnest(cast(list(known), ARRAY(Uuid))).column_valued("journal")
    # For each journal by itself, an index has its highest number at once.
    highest = select(func.max(AuditEventRow.origin_seq))
    last = highest.where(AuditEventRow.origin_journal == journal).scalar_subquery()
    found = session.execute(select(journal, func.coalesce(last, 0)))
    return {origin: known[origin] for origin, seq in found if known[origin] > seq}
