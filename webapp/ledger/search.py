"""Queries of the ledger: lists, with the same filters over HTTP and in commands, and single events.

They return the rows that the session's scope sees. An event is shown as it was recorded, even where
events have other fields by now.
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
"""The time by which a transaction may commit after another one that inserted later."""


@dataclass(frozen=True)
class AuditQuery:
    """The filters, order and page of a list.

    `cursor` is opaque until `read_page` has checked it.
    """

    limit: int = 50
    cursor: str | None = None
    sort: SortKey = "-occurred_at"
    actor: str | None = None
    surface: str | None = None
    """A surface's name, or `prefix.*`."""
    tenant: str | None = None
    reason: str | None = None
    ticket: str | None = None
    effect: Ruling | None = None
    outcome: Outcome | None = None
    kind: Kind | None = None
    request_id: str | None = None
    begins: datetime | None = None
    """The first moment; `from` on the wire, which is a keyword in Python."""
    ends: datetime | None = None
    """The moment after the last one; `to` on the wire."""


@dataclass(frozen=True)
class LedgerEntry:
    """An event in the ledger."""

    id: UUID
    event: Mapping[str, Any]
    """The event as the version that recorded it dumped it."""
    committed_at: datetime


@dataclass(frozen=True)
class AuditPage:
    items: tuple[LedgerEntry, ...]
    next_cursor: str | None
    total: int


def list_events(session: ScopedSession, query: AuditQuery) -> AuditPage:
    """Return the page that `query` asks for; raises `Invalid` for a wrong cursor."""
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


def get_event(session: ScopedSession, event_id: UUID) -> LedgerEntry:
    row = session.get(AuditEventRow, event_id)
    if row is None:
        raise NotFound("There is no such event.")
    return _shown_in(session)(row)


def current_moment(session: ScopedSession) -> datetime:
    """Return the moment by the database's clock, which sets `committed_at`."""
    moment: datetime = session.scalars(select(func.clock_timestamp())).one()
    return moment


def list_committed_since(session: ScopedSession, moment: datetime) -> list[LedgerEntry]:
    """List the events committed since `moment`, oldest first, and those of the OVERLAP before it.

    An event may become visible after others that were inserted later.
    """
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


def _shown_in(session: ScopedSession) -> Callable[[AuditEventRow], LedgerEntry]:
    return _entry_for_tenant if isinstance(session.scope, TenantScope) else _entry


def _entry(row: AuditEventRow) -> LedgerEntry:
    return LedgerEntry(row.id, row.event, row.committed_at.astimezone(UTC))


def _entry_for_tenant(row: AuditEventRow) -> LedgerEntry:
    """Return the entry without excluded tenants: a tenant must not learn of the others."""
    entry = _entry(row)
    decision = entry.event.get("decision", {}) | {"excluded_tenant_ids": []}
    return replace(entry, event={**entry.event, "decision": decision})
