"""The ledger, read: lists with one filter language for HTTP and command line, and single events.

Rows are those that the session's scope sees. An event is shown as it was recorded, whatever fields
events have by now.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, select

from webapp.audit.event import Kind, Outcome, Ruling
from webapp.audit.models import AuditEventRow
from webapp.db.scopes import TenantScope
from webapp.db.session import ScopedSession
from webapp.http.errors import NotFound
from webapp.http.pagination import listing_of, read_page

SortKey = Literal["-occurred_at", "occurred_at"]

OVERLAP = timedelta(seconds=10)
"""By how much a transaction may commit after another one that inserted later."""


@dataclass(frozen=True)
class AuditQuery:
    """What the list is asked for; `cursor` is opaque until `webapp.http.schema` has checked it."""

    limit: int = 50
    cursor: str | None = None
    sort: SortKey = "-occurred_at"
    actor: str | None = None
    surface: str | None = None
    """Exact, or `prefix.*`."""
    tenant: str | None = None
    reason: str | None = None
    ticket: str | None = None
    effect: Ruling | None = None
    outcome: Outcome | None = None
    kind: Kind | None = None
    request_id: str | None = None
    begins: datetime | None = None
    """`from` on the wire, a word that Python keeps for itself; the end is not included."""
    ends: datetime | None = None


@dataclass(frozen=True)
class Entry:
    """An event in the ledger."""

    id: UUID
    event: Mapping[str, Any]
    """As `audit.event` dumps it, of this version or of the one that recorded it."""
    committed_at: datetime


@dataclass(frozen=True)
class AuditPage:
    items: tuple[Entry, ...]
    next_cursor: str | None
    total: int


def list_events(session: ScopedSession, query: AuditQuery) -> AuditPage:
    """The page that `query` asks for; raises `Invalid` for its cursor."""
    page = read_page(
        session,
        select(AuditEventRow),
        AuditEventRow,
        _filters(query),
        sort=query.sort,
        limit=query.limit,
        cursor=query.cursor,
        listing=listing_of("audits", session.scope, replace(query, limit=0, cursor=None)),
    )
    shows = _shown_in(session)
    return AuditPage(tuple(shows(row) for row, _ in page.rows), page.next_cursor, page.total)


def has_events(session: ScopedSession, query: AuditQuery) -> bool:
    """Whether any event that the scope sees matches the filters."""
    return session.scalars(select(exists().where(*_filters(query)))).one()


def get_event(session: ScopedSession, event_id: UUID) -> Entry:
    row = session.get(AuditEventRow, event_id)
    if row is None:
        raise NotFound("There is no such event.")
    return _shown_in(session)(row)


def current_moment(session: ScopedSession) -> datetime:
    """By the database's clock, which says when events are committed."""
    moment: datetime = session.scalars(select(func.clock_timestamp())).one()
    return moment


def list_committed_since(session: ScopedSession, moment: datetime) -> list[Entry]:
    """Events committed since `moment`, in that order; some from shortly before it too, since they
    may have become visible after others that were inserted later."""
    since = select(AuditEventRow).where(AuditEventRow.committed_at > moment - OVERLAP)
    rows = session.scalars(since.order_by(AuditEventRow.committed_at, AuditEventRow.id))
    return list(map(_shown_in(session), rows))


def _filters(query: AuditQuery) -> Iterator[ColumnElement[bool]]:
    exact = {
        AuditEventRow.actor_email: query.actor,
        AuditEventRow.tenant: query.tenant,
        AuditEventRow.reason_code: query.reason,
        AuditEventRow.ticket: query.ticket,
        AuditEventRow.effect: query.effect,
        AuditEventRow.outcome: query.outcome,
        AuditEventRow.kind: query.kind,
        AuditEventRow.request_id: query.request_id,
    }
    yield from (column == value for column, value in exact.items() if value is not None)
    if query.surface is not None:
        prefix = query.surface.removesuffix("*")
        if prefix == query.surface:
            yield AuditEventRow.surface == query.surface
        else:
            yield AuditEventRow.surface.startswith(prefix, autoescape=True)
    if query.begins is not None:
        yield AuditEventRow.occurred_at >= query.begins
    if query.ends is not None:
        yield AuditEventRow.occurred_at < query.ends


def _shown_in(session: ScopedSession) -> Callable[[AuditEventRow], Entry]:
    return _entry_for_tenant if isinstance(session.scope, TenantScope) else _entry


def _entry(row: AuditEventRow) -> Entry:
    return Entry(row.id, row.event, row.committed_at.astimezone(UTC))


def _entry_for_tenant(row: AuditEventRow) -> Entry:
    """Who else was left out of an access is not for a tenant to know."""
    entry = _entry(row)
    decision = entry.event.get("decision", {}) | {"excluded_tenant_ids": []}
    return replace(entry, event={**entry.event, "decision": decision})
