"""Queries of the ledger: lists, with the same filters over HTTP and in commands, and single events.

They return the rows that the session's scope sees. An event is shown as it was recorded, even where
events have other fields by now.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, func, select

from webapp.audit.event import Kind, Outcome, Ruling
from webapp.audit.models import EVERY_TENANT, AuditEventRow, ExcludedSetRow
from webapp.db.scopes import Scope, TenantScope
from webapp.db.session import ScopedSession
from webapp.http.errors import NotFound
from webapp.http.pagination import (
    WHOLE_LIST,
    Run,
    decode_cursor,
    encode_cursor,
    listing_of,
    read_page,
)
from webapp.identity.principal import STAFF_ROLES

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
    total: int | None
    total_is_at_least: int | None = None


@dataclass(frozen=True)
class ExcludedQuery:
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True)
class ExcludedPage:
    items: tuple[UUID, ...]
    """The tenants' ids."""
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
        runs=_runs(session.scope, query),
    )
    shows = _shown_in(session)
    return AuditPage(
        tuple(shows(row) for row, _ in page.rows),
        page.next_cursor,
        page.total,
        page.total_is_at_least,
    )


def has_events(session: ScopedSession, query: AuditQuery) -> bool:
    """Whether any event that the scope sees matches the filters."""
    return bool(list_events(session, replace(query, limit=1)).items)


def get_event(session: ScopedSession, event_id: UUID) -> LedgerEntry:
    row = session.get(AuditEventRow, event_id)
    if row is None:
        raise NotFound("There is no such event.")
    return _shown_in(session)(row)


def list_excluded(session: ScopedSession, event_id: UUID, query: ExcludedQuery) -> ExcludedPage:
    """List the tenants that an access left out, by id; raises `NotFound` and `Invalid`."""
    row = session.get(AuditEventRow, event_id)
    if row is None:
        raise NotFound("There is no such event.")
    tenants = sorted(_excluded_by(session, row))
    listing = listing_of("excluded", session.scope, event_id)
    following = tenants
    if query.cursor is not None:
        (last,) = decode_cursor(query.cursor, listing)
        following = [tenant for tenant in tenants if str(tenant) > last]
    shown = following[: query.limit]
    more = len(following) > len(shown)
    cursor = encode_cursor([shown[-1]], listing) if more else None
    return ExcludedPage(tuple(shown), cursor, len(tenants))


def _excluded_by(session: ScopedSession, row: AuditEventRow) -> Sequence[UUID]:
    if isinstance(session.scope, TenantScope):
        return ()  # a tenant must not learn of the others
    if row.excluded_digest is None:
        return ()
    named = select(ExcludedSetRow.tenant_ids).where(ExcludedSetRow.digest == row.excluded_digest)
    return session.scalars(named).one()


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
    """The conditions of a list, without the one filter that its runs have as their key."""
    exact, prefix = _exact(query), _prefix(query)
    if len(exact) + (prefix is not None) > 1:
        # PostgreSQL chooses among their indexes, by what it knows of the values.
        yield from (column == value for column, value in exact)
        if prefix is not None:
            yield from _under(prefix)
    if query.begins is not None:
        yield AuditEventRow.occurred_at >= query.begins
    if query.ends is not None:
        yield AuditEventRow.occurred_at < query.ends


def _runs(scope: Scope | None, query: AuditQuery) -> Sequence[Run]:
    """The runs of a list: in a tenant's scope its own events, and those at all tenants.

    Each has the only filter as its key; of a prefix, each surface under it is the key of a run.
    """
    runs: Sequence[Run] = WHOLE_LIST
    if isinstance(scope, TenantScope):
        owners = (scope.tenant_id, EVERY_TENANT)
        runs = [Run((AuditEventRow.visible_to == owner,)) for owner in owners]
    match _exact(query), _prefix(query):
        case [key], None:
            return [replace(run, key=key) for run in runs]
        case [], str() as prefix:
            return [_of_each_surface(prefix, run) for run in runs]
    return runs


def _exact(query: AuditQuery) -> list[tuple[Any, str]]:
    """The columns that have to have one value, and the value."""
    surface = query.surface
    values = {
        AuditEventRow.actor_email: query.actor,
        AuditEventRow.tenant: query.tenant,
        AuditEventRow.surface: None if surface is None or surface.endswith("*") else surface,
        AuditEventRow.reason_code: query.reason,
        AuditEventRow.ticket: query.ticket,
        AuditEventRow.effect: query.effect,
        AuditEventRow.outcome: query.outcome,
        AuditEventRow.kind: query.kind,
        AuditEventRow.request_id: query.request_id,
    }
    return [(column, value) for column, value in values.items() if value is not None]


def _prefix(query: AuditQuery) -> str | None:
    """What the surface has to begin with, up to a dot; `None` for any surface."""
    if query.surface is None or query.surface == "*" or not query.surface.endswith("*"):
        return None
    return query.surface.removesuffix("*")


def _under(prefix: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The conditions for surfaces under a prefix. They are sorted by bytes; "/" follows the dot."""
    return AuditEventRow.surface >= prefix, AuditEventRow.surface < prefix[:-1] + "/"


def _of_each_surface(prefix: str, run: Run) -> Run:
    """Split a run into one for each surface under a prefix."""
    surfaces = _surfaces_under(prefix, run)
    return replace(run, key=(AuditEventRow.surface, surfaces.c.surface), each=surfaces)


def _surfaces_under(prefix: str, run: Run) -> CTE:
    """The surfaces under a prefix in a run's events, each found by one step in an index.

    The last row is null.
    """
    surface = AuditEventRow.surface
    under = select(surface.label("surface")).where(*run.conditions, *_under(prefix))
    under = under.order_by(surface).limit(1)
    found = under.cte(recursive=True)
    following = under.where(surface > found.c.surface).scalar_subquery()
    return found.union_all(select(following).where(found.c.surface.is_not(None)))


def _shown_in(session: ScopedSession) -> Callable[[AuditEventRow], LedgerEntry]:
    return _entry_for_tenant if isinstance(session.scope, TenantScope) else _entry


def _entry(row: AuditEventRow) -> LedgerEntry:
    return LedgerEntry(row.id, row.event, row.committed_at.astimezone(UTC))


def _entry_for_tenant(row: AuditEventRow) -> LedgerEntry:
    """Return the entry without what tells a tenant of the others: who was left out of an access to
    all of them, and what was looked for in it. Nor does a tenant see a stranger's own words."""
    entry = _entry(row)
    event = {**entry.event, "decision": {**entry.event["decision"], "excluded": None}}
    if event["scope"]["kind"] == "global":
        event["terms"] = None
    if _is_strangers(event):
        event = _without_own_words(event)
    return replace(entry, event=event)


def _is_strangers(event: Mapping[str, Any]) -> bool:
    """Whether a refused attempt was that of somebody who is neither a member nor of the staff."""
    roles, own = event["actor"]["roles"], f"{event['scope']['tenant']}:"
    known = any(role in STAFF_ROLES or role.startswith(own) for role in roles)
    return event["outcome"] == "denied" and not known


def _without_own_words(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event without the texts that its actor chose."""
    request = {**event["request"], "user_agent": None, "x_request_id": None}
    reason = event["reason"] and {**event["reason"], "ticket": None, "note": None}
    return {**event, "reason": reason, "request": request}
