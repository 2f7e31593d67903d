"""What the list of audit events reads from the database, on a ledger with many other events."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Literal
from uuid import UUID, uuid4

import pytest
from flask import Flask
from sqlalchemy import select

from bench import filling
from tests.audit.events import make_event
from tests.factories import MadeTenant, add_tenant
from tests.plans import scans_of
from webapp.audit.append import append_own
from webapp.audit.event import Actor, EventDecision, EventScope
from webapp.audit.models import AuditEventRow
from webapp.db.scopes import Exclusion, GlobalScope, Scope, TenantScope
from webapp.extensions import db
from webapp.http.pagination import COUNTED, MAX_LIMIT
from webapp.ledger import search
from webapp.ledger.attempts import MOST
from webapp.ledger.search import AuditQuery
from webapp.rules.simulation.history import PAGE as PAGE_OF_HISTORY
from webapp.rules.simulation.history import read_history
from webapp.stack.home import Stack

pytestmark = pytest.mark.slow(seconds=0.05)

EVENTS = 30_000
OLDEST = make_event(occurred_at=datetime.now(UTC) - timedelta(hours=1))
"""Older than what making tenants leaves in the ledger, by more than the events filled in span."""

PAGE = 50
BOUND = 4 * (COUNTED + PAGE)
"""Rows that a page may read: those counted and those shown, of a tenant and of all tenants."""

DEPTH = 4
"""Blocks of an index that lead to an entry, and one that follows."""

SCOPES = ("one tenant", "all tenants", "all tenants but one")
RARE = {
    "actor": "rare@example.org",
    "tenant": "bench-rare",
    "surface": "rarely.used.read",
    "reason": "legal",
    "ticket": "T-rare",
    "kind": "change",
    "effect": "denied",
    "outcome": "interrupted",
    "request_id": "rare",
}
COMMON = {
    "actor": "user-7@example.org",
    "tenant": "bench-own",
    "surface": "admin.rules.list",
    "reason": "incident",
    "ticket": "T-7",
    "kind": "access",
    "effect": "allowed",
    "outcome": "served",
    "request_id": "none",
}
ABSENT = {
    "actor": "nobody@example.org",
    "tenant": "nobodys",
    "surface": "never.used",
    "reason": "fraud",
    "ticket": "T-none",
    "effect": "approval_required",
    "outcome": "failed",
}
FILTERS = [
    {},
    {"surface": "rarely.*"},
    {"surface": "admin.*"},
    {"surface": "never.*"},
    {"surface": "*"},
    *({name: value} for values in (RARE, COMMON, ABSENT) for name, value in values.items()),
    RARE,
    {"surface": "rarely.*", "actor": "user-7@example.org"},
    {"surface": "admin.*", "actor": "rare@example.org"},
    {"surface": "admin.audits.list", "actor": "user-7@example.org"},
    {"tenant": "bench-own", "actor": "user-7@example.org"},
    {"kind": "access", "effect": "allowed", "outcome": "served"},
    {"kind": "access", "ticket": "T-none"},
    {"reason": "incident", "surface": "admin.*"},
    {"reason": "incident", "surface": "rarely.*"},
    COMMON,
]


@pytest.fixture(scope="module")
def own(filled_app: Flask, filled_stack: Stack) -> MadeTenant:
    """A tenant in whose ledger it has few events among those of many others."""
    tenant = add_tenant(filled_app)
    with filled_app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        append_own(db.session, [OLDEST])
        db.session.commit()
    owner = filled_stack.environment["DATABASE_OWNER_URL"]
    filling.add_events(owner, tenant.id, 0, EVENTS)
    return tenant


def scope_of(name: str, own: MadeTenant) -> Scope:
    if name == "one tenant":
        return TenantScope(own.id)
    excluded = Exclusion(frozenset({uuid4()}) if name.endswith("but one") else frozenset())
    return GlobalScope(uuid4(), excluded)


def refuse_growing(query: AuditQuery) -> None:
    """Fail if the page's statement reads rows in proportion to the ledger's."""
    scans = scans_of("audit_events", lambda: search.list_events(db.session, query))
    reading = [scan for scan in scans if scan.rows]
    assert sum(scan.rows for scan in reading) <= BOUND, scans
    assert all(scan.kind.startswith("Index") for scan in reading), scans


@pytest.mark.parametrize("sort", ["-occurred_at", "occurred_at"])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("scope", SCOPES)
def test_page_reads_no_more_rows_than_it_counts_and_shows(
    filled_app: Flask, own: MadeTenant, scope: str, filters: dict[str, str], sort: str
) -> None:
    query = AuditQuery(limit=PAGE, sort=sort, **filters)  # type: ignore[arg-type]  # of a table
    with filled_app.app_context(), db.scoped(scope_of(scope, own)):
        refuse_growing(query)


@pytest.mark.parametrize("sort", ["-occurred_at", "occurred_at"])
@pytest.mark.parametrize(
    "filters", [{}, {"surface": "admin.rules.list"}, {"surface": "admin.*"}], ids=str
)
@pytest.mark.parametrize("scope", SCOPES)
def test_window_in_the_past_reads_no_more_rows_than_it_shows(
    filled_app: Flask, own: MadeTenant, scope: str, filters: dict[str, str], sort: str
) -> None:
    """Nor does it walk past the entries of an index that are later, or earlier."""
    begins = OLDEST.occurred_at + timedelta(milliseconds=EVENTS / 2)
    ends = begins + timedelta(milliseconds=100)
    query = AuditQuery(begins=begins, ends=ends, sort=sort, **filters)  # type: ignore[arg-type]  # of a table
    with filled_app.app_context(), db.scoped(scope_of(scope, own)):
        assert search.list_events(db.session, query).items
        refuse_growing(query)
        scans = scans_of("audit_events", lambda: search.list_events(db.session, query))
    for scan in scans:
        assert scan.blocks <= scan.rows + DEPTH * scan.times, scans


@pytest.mark.parametrize("filters", [{}, {"surface": "admin.*"}], ids=str)
@pytest.mark.parametrize("scope", SCOPES)
def test_last_page_reads_no_more_rows_than_the_first(
    filled_app: Flask, own: MadeTenant, scope: str, filters: dict[str, str]
) -> None:
    """From the cursor on; no page before it is read."""
    with filled_app.app_context(), db.scoped(scope_of(scope, own)):
        newest_first = AuditQuery(limit=200, **filters)  # type: ignore[arg-type]  # of a table
        cursor = search.list_events(db.session, newest_first).next_cursor
        refuse_growing(replace(newest_first, limit=PAGE, cursor=_again(newest_first, cursor)))


@pytest.mark.parametrize("scope", SCOPES)
def test_page_of_the_history_for_simulations_reads_no_more_rows_than_it_looks_at(
    filled_app: Flask, own: MadeTenant, scope: str
) -> None:
    def read() -> None:
        pages = read_history(OLDEST.occurred_at)
        assert [page.events for page in islice(pages, 2)][-1] > 0

    with filled_app.app_context(), db.scoped(scope_of(scope, own)):
        scans = [scan for scan in scans_of("audit_events", read) if scan.rows]
    # Of each page: the keys of two runs, and then the rows.
    assert sum(scan.rows for scan in scans) <= 2 * 4 * (PAGE_OF_HISTORY + 1), scans
    assert all(scan.kind.startswith("Index") for scan in scans), scans


def test_page_that_groups_attempts_reads_no_more_rows_than_it_stands_for(
    filled_app: Flask, own: MadeTenant
) -> None:
    tenant = add_tenant(filled_app)
    scope = EventScope(kind="tenant", tenant=tenant.slug, tenant_id=tenant.id)
    stranger = Actor(id=uuid4(), email="stranger@example.org", roles=(), token_id=None)
    denied = EventDecision("denied")
    attempts = [
        make_event(scope=scope, actor=stranger, decision=denied, outcome="denied")
        for _ in range(2 * MOST)
    ]
    with filled_app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        append_own(db.session, attempts)
        db.session.commit()
    query = AuditQuery(limit=PAGE, outcome="denied")
    with filled_app.app_context(), db.scoped(TenantScope(tenant.id)):
        (line,) = search.list_events(db.session, query).items
        scans = scans_of("audit_events", lambda: search.list_events(db.session, query))
    assert line.attempts is not None
    assert line.attempts.count == PAGE + MOST
    reading = [scan for scan in scans if scan.rows]
    # Those counted; the keys of each event, and of one more of each statement, and the events.
    statements = 1 + MOST // MAX_LIMIT
    assert sum(scan.rows for scan in reading) <= 1 + COUNTED + 2 * (PAGE + MOST + statements), (
        "\n".join(map(str, reading))
    )
    assert all(scan.kind.startswith("Index") for scan in reading), scans


def _again(query: AuditQuery, cursor: str | None) -> str | None:
    """The cursor of a page far behind the first."""
    for _ in range(20):
        cursor = search.list_events(db.session, replace(query, cursor=cursor)).next_cursor
    return cursor


@pytest.mark.parametrize("filters", [{}, {"surface": "admin.*"}], ids=str)
@pytest.mark.parametrize("scope", SCOPES)
def test_total_is_exact_up_to_a_thousand_and_then_a_bound(
    filled_app: Flask, own: MadeTenant, scope: str, filters: dict[str, str]
) -> None:
    begins = OLDEST.occurred_at + timedelta(milliseconds=filling.RARE)
    later = select(AuditEventRow.occurred_at).where(AuditEventRow.occurred_at >= begins)
    with filled_app.app_context(), db.scoped(scope_of(scope, own)):
        moments = db.session.scalars(later.order_by(AuditEventRow.occurred_at).limit(1002)).all()
        query = AuditQuery(begins=begins, ends=moments[1000], **filters)  # type: ignore[arg-type]  # of a table
        exact = search.list_events(db.session, query)
        more = search.list_events(db.session, replace(query, ends=moments[1001]))
    assert (exact.total, exact.total_is_at_least) == (1000, None)
    assert (more.total, more.total_is_at_least) == (None, 1000)


@pytest.mark.parametrize("sort", ["-occurred_at", "occurred_at"])
def test_pages_of_two_runs_show_every_event_once_and_in_order(
    filled_app: Flask, own: MadeTenant, sort: Literal["-occurred_at", "occurred_at"]
) -> None:
    """A tenant's own events and those at all tenants, of all surfaces under a prefix."""
    ends = OLDEST.occurred_at + timedelta(milliseconds=2 * filling.RARE)
    with filled_app.app_context(), db.scoped(TenantScope(own.id)):
        for surface in (None, "admin.*", "rarely.*"):
            prefix = (surface or "*").removesuffix("*")
            in_time = select(AuditEventRow.id).where(AuditEventRow.occurred_at < ends)
            expected = [
                *db.session.scalars(
                    in_time.where(AuditEventRow.surface.startswith(prefix)).order_by(
                        AuditEventRow.occurred_at, AuditEventRow.id
                    )
                )
            ]
            shown: list[UUID] = []
            query = AuditQuery(limit=7, sort=sort, surface=surface, ends=ends)
            while True:
                page = search.list_events(db.session, query)
                shown += [item.id for item in page.items]
                if page.next_cursor is None:
                    break
                query = replace(query, cursor=page.next_cursor)
            assert shown == (expected if sort == "occurred_at" else expected[::-1])
            assert page.total == len(expected) > 7
