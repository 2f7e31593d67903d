"""Queries of the ledger: lists, with the same filters over HTTP and in commands, and single events.

They return the rows that the session's scope sees. An event is shown as it was recorded, even where
events have other fields by now.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, and_, func, literal, select, tuple_

from webapp.audit.event import Kind, Outcome, Ruling
from webapp.audit.models import EVERY_TENANT, AuditEventRow, ExcludedSetRow
from webapp.db.scopes import Scope, TenantScope
from webapp.db.session import ScopedSession
from webapp.http.errors import NotFound
from webapp.http.pagination import (
    MAX_LIMIT,
    WHOLE_LIST,
    Page,
    Run,
    count_rows,
    decode_cursor,
    encode_cursor,
    listing_of,
    look_through,
    read_page,
)
from webapp.ledger.attempts import MILLISECOND, MOST, Attempts, Lines, is_strangers

FEW = 100
"""The number of events up to which it is counted how many a filter has, to choose among several."""

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
    grouped: bool | None = None
    """Whether strangers' attempts of a page that are alike make one line; by default, in a
    tenant's scope they do."""


@dataclass(frozen=True)
class GroupedAttempts:
    """A stranger's attempts that one line of a list stands for."""

    count: int
    first_at: datetime
    last_at: datetime
    each: AuditQuery
    """The list of each of them."""


@dataclass(frozen=True)
class LedgerEntry:
    """An event in the ledger."""

    id: UUID
    event: Mapping[str, Any]
    """The event as the version that recorded it dumped it."""
    committed_at: datetime
    attempts: GroupedAttempts | None = None
    """In a list, the attempts that it stands for if it is not the only one."""


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
    page, shows = _read(session, query), _shown_in(session)
    if query.grouped or (query.grouped is None and isinstance(session.scope, TenantScope)):
        lines, next_cursor = _group(session, query, page)
        items = [replace(shows(row), attempts=_grouped(query, row, of)) for row, of in lines.rows]
    else:
        items, next_cursor = [shows(row) for row, _ in page.rows], page.next_cursor
    return AuditPage(tuple(items), next_cursor, page.total, page.total_is_at_least)


def _read(session: ScopedSession, query: AuditQuery, *, counts: bool = True) -> Page:
    """Read a page by the index of one filter. The others are looked for among its events."""
    window, owned = (query.begins, query.ends), _runs(session.scope)
    filters = _filters(query)
    if len(filters) > 1:
        # The rarest leads, as far as it is counted. A prefix has several runs.
        filters.sort(key=lambda each: (_count(session, query, each.of(owned)), each.is_prefix))
    leading, others = filters[:1], filters[1:]
    reading: dict[str, Any] = {
        "sort": query.sort,
        "limit": query.limit,
        "cursor": query.cursor,
        "listing": _listing(session, query),
        "runs": [run for each in leading for run in each.of(owned)] or owned,
        "window": window,
        "counts": counts,
    }
    if others:
        return look_through(session, AuditEventRow, [each.matches for each in others], **reading)
    return read_page(session, select(AuditEventRow), AuditEventRow, (), **reading)


def _count(session: ScopedSession, query: AuditQuery, runs: Sequence[Run]) -> int:
    """How many events runs have in the query's window, up to FEW."""
    window = query.begins, query.ends
    return count_rows(session, AuditEventRow, runs, FEW, sort=query.sort, window=window)


def _listing(session: ScopedSession, query: AuditQuery) -> str:
    return listing_of("audits", session.scope, replace(query, limit=0, cursor=None))


def _group(session: ScopedSession, query: AuditQuery, page: Page) -> tuple[Lines, str | None]:
    """The lines of a page whose first events are those of `page`, and the cursor that follows it.

    Attempts that make one line leave room for others, so that further events are read, up to MOST.
    """
    lines = Lines(query.limit)
    read = 0
    while True:
        for row, _ in page.rows:
            last = lines.last
            if not lines.add(row):
                assert last is not None  # noqa: S101 - a page has room for one line
                return lines, encode_cursor([last.occurred_at, last.id], _listing(session, query))
        left = min(MAX_LIMIT, MOST - read)
        if page.next_cursor is None or page.truncated or not lines.want_more or not left:
            return lines, page.next_cursor
        page = _read(session, replace(query, limit=left, cursor=page.next_cursor), counts=False)
        read += left


def _grouped(
    query: AuditQuery, row: AuditEventRow, attempts: Attempts | None
) -> GroupedAttempts | None:
    if attempts is None:
        return None
    each = replace(
        query,
        cursor=None,
        actor=row.actor_email,
        surface=row.surface,
        tenant=row.tenant,
        effect=cast(Ruling, row.effect),
        outcome="denied",
        begins=attempts.first_at,
        ends=attempts.last_at + MILLISECOND,
        grouped=False,
    )
    return GroupedAttempts(attempts.count, attempts.first_at, attempts.last_at, each)


def has_events(session: ScopedSession, query: AuditQuery) -> bool:
    """Whether any event that the scope sees matches the filters."""
    return bool(list_events(session, replace(query, limit=1, grouped=False)).items)


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


@dataclass(frozen=True)
class _Filter:
    """One condition of a list, which an index leads to."""

    column: Any
    value: str
    is_prefix: bool = False
    """Whether the value is what a surface begins with, up to a dot."""

    @property
    def matches(self) -> ColumnElement[bool]:
        if self.is_prefix:
            # Surfaces are sorted by bytes; "/" follows the dot.
            return and_(self.column >= self.value, self.column < _end_of(self.value))
        return cast(ColumnElement[bool], self.column == self.value)

    def of(self, runs: Sequence[Run]) -> Sequence[Run]:
        """The events of these runs that match; of a prefix, each surface under it makes a run."""
        if self.is_prefix:
            return [_of_each_surface(self.value, run) for run in runs]
        key = (self.column, self.value)
        if self.column is AuditEventRow.request_id:
            # A request leaves a few events at most: its index is nobody's.
            return [Run(tuple(of == owner for of, owner in run.key), (key,)) for run in runs]
        return [replace(run, key=(*run.key, key)) for run in runs]


def _filters(query: AuditQuery) -> list[_Filter]:
    """The conditions of a list but for its window. Those that few events match tend to be first."""
    surface = None if query.surface == "*" else query.surface
    values = {
        AuditEventRow.request_id: query.request_id,
        AuditEventRow.ticket: query.ticket,
        AuditEventRow.actor_email: query.actor,
        AuditEventRow.tenant: query.tenant,
        AuditEventRow.surface: surface,
        AuditEventRow.reason_code: query.reason,
        AuditEventRow.outcome: query.outcome,
        AuditEventRow.effect: query.effect,
        AuditEventRow.kind: query.kind,
    }
    return [
        _Filter(column, value.removesuffix("*"), is_prefix=value.endswith("*"))
        if column is AuditEventRow.surface
        else _Filter(column, value)
        for column, value in values.items()
        if value is not None
    ]


def conditions_of(query: AuditQuery) -> list[ColumnElement[bool]]:
    """The filters of a list, and its window, as conditions on events."""
    conditions = [each.matches for each in _filters(query)]
    if query.begins is not None:
        conditions.append(AuditEventRow.occurred_at >= query.begins)
    if query.ends is not None:
        conditions.append(AuditEventRow.occurred_at < query.ends)
    return conditions


def _runs(scope: Scope | None) -> Sequence[Run]:
    """The runs of a list: in a tenant's scope its own events, and those at all tenants.

    The owner is in the key of each.
    """
    if not isinstance(scope, TenantScope):
        return WHOLE_LIST
    owners = (scope.tenant_id, EVERY_TENANT)
    return [Run(key=((AuditEventRow.visible_to, owner),)) for owner in owners]


def _end_of(prefix: str) -> str:
    return prefix[:-1] + "/"


def _of_each_surface(prefix: str, run: Run) -> Run:
    """Split a run into one for each surface under a prefix."""
    surfaces = _surfaces_under(prefix, run)
    key = (*run.key, (AuditEventRow.surface, surfaces.c.surface))
    return replace(run, key=key, each=surfaces)


def _surfaces_under(prefix: str, run: Run) -> CTE:
    """The surfaces under a prefix in a run's events, each found by one step in an index.

    The last row is null.
    """
    surface = AuditEventRow.surface
    columns = (*(column for column, _ in run.key), surface)
    owner = tuple(literal(value, column.type) for column, value in run.key)
    begin, end = (literal(bound, surface.type) for bound in (prefix, _end_of(prefix)))
    under = select(surface.label("surface")).where(tuple_(*columns) < tuple_(*owner, end))
    under = under.order_by(*columns).limit(1)
    found = under.where(tuple_(*columns) >= tuple_(*owner, begin)).cte(recursive=True)
    following = under.where(tuple_(*columns) > tuple_(*owner, found.c.surface))
    return found.union_all(select(following.scalar_subquery()).where(found.c.surface.is_not(None)))


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
    if is_strangers(event):
        event = _without_own_words(event)
    return replace(entry, event=event)


def _without_own_words(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event without the texts that its actor chose."""
    request = {**event["request"], "user_agent": None, "x_request_id": None}
    reason = event["reason"] and {**event["reason"], "ticket": None, "note": None}
    return {**event, "reason": reason, "request": request}
