"""What an export reads, page by page: the log as it is when the export begins, and its events.

No transaction lasts longer than a page. Entries never change, so that all pages together are of one
moment, that of the checkpoints.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import (
    ColumnElement,
    Text,
    and_,
    cast,
    exists,
    false,
    func,
    or_,
    select,
    tuple_,
)

from webapp.audit.models import EVERY_TENANT, AuditEventRow
from webapp.db.scopes import TenantScope
from webapp.db.session import ScopedSession
from webapp.ledger.sealing import published
from webapp.ledger.sealing.leaf import EventLeaf, parse_leaf
from webapp.ledger.sealing.models import LogEntryRow, LogRow, LogSeriesRow

PAGE = 1_000
"""Entries of a page at most: it is held in memory."""

SPAN = 20_000
"""Entries, or events, that one statement looks at."""

_EVENT = cast(AuditEventRow.event, Text)
_SIGNATURE = AuditEventRow.origin_signature


@dataclass(frozen=True)
class SealedLog:
    """A log, as far as one of its checkpoints proves it."""

    number: int
    size: int
    checkpoint: str


@dataclass(frozen=True)
class Snapshot:
    """What there is when an export begins."""

    at: datetime
    logs: tuple[SealedLog, ...]
    """From the first to the open one."""


@dataclass(frozen=True)
class StoredEntry:
    """An entry of a log, and its event as far as the scope sees it."""

    index: int
    leaf: EventLeaf
    event: dict[str, Any] | None
    signature: str | None


@dataclass(frozen=True)
class PendingEvent:
    """A committed event that no checkpoint of the snapshot covers."""

    committed_at: datetime
    event: dict[str, Any]
    signature: str | None


def take_snapshot(session: ScopedSession) -> Snapshot:
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    numbers = select(LogRow.number).where(LogRow.checkpoint.is_not(None))
    logs = []
    for number in session.scalars(numbers.order_by(LogRow.number)).all():
        size, checkpoint = published.read_sized_checkpoint(session, number)
        logs.append(SealedLog(number, size, checkpoint.decode()))
    session.rollback()
    return Snapshot(now.astimezone(UTC), tuple(logs))


def read_labels(session: ScopedSession, log: int) -> dict[str, UUID | None]:
    """Return the labels of the series that the scope sees, each with its tenant."""
    found = select(LogSeriesRow.label, LogSeriesRow.tenant_id).where(LogSeriesRow.log == log)
    return {row.label: row.tenant_id for row in session.execute(found)}


def read_entries(
    session: ScopedSession,
    log: SealedLog,
    conditions: Sequence[ColumnElement[bool]],
    labels: Sequence[str] | None,
) -> Iterator[StoredEntry]:
    """Yield the log's entries in order, without heartbeats.

    With `conditions` these are the entries whose events meet them. With `labels` they are those of
    the series of these labels.
    """
    first, span = 0, PAGE
    while first < log.size:
        end = min(first + span, log.size)
        page = _read_page(session, log.number, first, end, conditions, labels)
        # One event at a time is parsed: a page of parsed ones is what garbage collectors search.
        yield from (_entry(*row) for row in page)
        first = page[-1][0] + 1 if len(page) == PAGE else end
        # Where few entries are wanted, a statement looks at more of them.
        span = min(2 * span, SPAN) if len(page) <= PAGE // 4 else PAGE


def _read_page(
    session: ScopedSession,
    log: int,
    first: int,
    end: int,
    conditions: Sequence[ColumnElement[bool]],
    labels: Sequence[str] | None,
) -> list[tuple[Any, ...]]:
    same = and_(
        AuditEventRow.id == LogEntryRow.event_id,
        AuditEventRow.occurred_at == LogEntryRow.occurred_at,
        *conditions,
    )
    found = (
        select(LogEntryRow.index, LogEntryRow.leaf, _EVENT, _SIGNATURE)
        .join_from(LogEntryRow, AuditEventRow, same, isouter=not conditions)
        .where(LogEntryRow.log == log, LogEntryRow.index >= first, LogEntryRow.index < end)
        .where(LogEntryRow.event_id.is_not(None))
    )
    if labels is not None:
        # A leaf is one byte and ASCII. Where a label stands in it, it is that of a number.
        text = func.convert_from(func.substr(LogEntryRow.leaf, 2), "UTF8")
        found = found.where(or_(*[text.contains(f'["{label}",') for label in labels]))
    rows = session.execute(found.order_by(LogEntryRow.index).limit(PAGE))
    page = [tuple(row) for row in rows]
    session.rollback()
    return page


def _entry(index: int, leaf: bytes, event: str | None, signature: str | None) -> StoredEntry:
    parsed = parse_leaf(bytes(leaf))
    assert isinstance(parsed, EventLeaf)  # noqa: S101 - a heartbeat is of no event
    return StoredEntry(index, parsed, None if event is None else orjson.loads(event), signature)


def read_pending(
    session: ScopedSession, snapshot: Snapshot, conditions: Sequence[ColumnElement[bool]]
) -> Iterator[PendingEvent]:
    """Yield the events that no checkpoint covers, oldest first.

    Each event that the scope sees is looked for in the log: one that was put into the ledger beside
    the log shows too.
    """
    for owner in _owners(session):
        yield from _read_pending_of(session, snapshot, [*owner, *conditions])


def _owners(session: ScopedSession) -> list[list[ColumnElement[bool]]]:
    """The parts of a ledger that one index has in order, as far as the scope sees them."""
    if not isinstance(session.scope, TenantScope):
        return [[]]
    owners = (session.scope.tenant_id, EVERY_TENANT)
    return [[AuditEventRow.visible_to == owner] for owner in owners]


_PLACE = tuple_(AuditEventRow.occurred_at, AuditEventRow.id)


def _read_pending_of(
    session: ScopedSession, snapshot: Snapshot, conditions: Sequence[ColumnElement[bool]]
) -> Iterator[PendingEvent]:
    last: tuple[datetime, UUID] | None = None
    while True:
        window = [*conditions, *([] if last is None else [tuple_(*last) < _PLACE])]
        bound = select(AuditEventRow.occurred_at, AuditEventRow.id).where(*window)
        bound = bound.order_by(AuditEventRow.occurred_at, AuditEventRow.id).offset(SPAN - 1)
        following = session.execute(bound.limit(1)).one_or_none()
        last = None if following is None else (following.occurred_at, following.id)
        if last is not None:
            window.append(tuple_(*last) >= _PLACE)
        found = select(AuditEventRow.committed_at, _EVENT, _SIGNATURE).where(
            *window, AuditEventRow.committed_at <= snapshot.at, ~_is_covered(snapshot)
        )
        rows = session.execute(found.order_by(AuditEventRow.occurred_at, AuditEventRow.id)).all()
        session.rollback()
        for at, event, signature in rows:
            yield PendingEvent(at.astimezone(UTC), orjson.loads(event), signature)
        if last is None:
            return


def _is_covered(snapshot: Snapshot) -> ColumnElement[bool]:
    """Whether a checkpoint covers the entry of an event."""
    within = [
        and_(LogEntryRow.log == log.number, LogEntryRow.index < log.size) for log in snapshot.logs
    ]
    entry = select(LogEntryRow.index).where(LogEntryRow.event_id == AuditEventRow.id)
    return exists(entry.where(or_(false(), *within)))
