"""How long a page of a list takes as the rows around it grow, by its 99th percentile."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from uuid import uuid4

from flask import Flask

from bench import filling
from bench.result import Curve, Ratio, Results, ratios
from tests.applications import application
from tests.audit.events import make_event
from tests.factories import add_tenant
from webapp.audit.append import append_own
from webapp.db.scopes import GlobalScope, Scope, TenantScope
from webapp.extensions import db
from webapp.ledger.search import AuditQuery, list_events
from webapp.rules.rule import RuleQuery
from webapp.rules.service import list_rules
from webapp.stack.home import open_stack, running

EVENTS = (10_000, 100_000, 1_000_000)
LARGE = (10_000, 1_000_000, 10_000_000)
TENANTS = (100, 10_000, 100_000)
RULES_EACH = 10
"""Rules that each other tenant gets whenever tenants are added."""
REPEATS = 100
BAR = 0.5
"""At the largest size a page takes twice as long at most as at the smallest."""

FILTERS: Mapping[str, AuditQuery] = {
    "a page of the audit list": AuditQuery(),
    "of one actor's events": AuditQuery(actor="user-7@example.org"),
    "of the events with a rare ticket": AuditQuery(ticket="T-rare"),
    "of the surfaces under a prefix": AuditQuery(surface="admin.*"),
    "of the surfaces under a rare prefix": AuditQuery(surface="rarely.*"),
    "of the oldest events": AuditQuery(sort="occurred_at"),
    "of the denied accesses": AuditQuery(effect="denied"),
}

Reads = Mapping[str, Callable[[], int]]
"""What is read, by its name; each returns how many rows its page has."""


def measure_growth(home: Path, rounds: int, results: Results) -> None:
    with _application(home) as (app, owner):
        _measure_events(app, owner, EVENTS, rounds, results)
        _measure_rules(app, owner, rounds, results)


def measure_large_ledger(home: Path, rounds: int, results: Results) -> None:
    """The audit list up to ten million events, for which the disk needs some 40 GB."""
    with _application(home) as (app, owner):
        _measure_events(app, owner, LARGE, rounds, results)


@contextmanager
def _application(home: Path) -> Iterator[tuple[Flask, str]]:
    stack = open_stack(home, durable=False)
    environment = {**stack.environment, "SIGHTLINE_ENV": "qa", "SIGHTLINE_HOME": str(home)}
    with running(stack), application(environment) as app:
        yield app, stack.environment["DATABASE_OWNER_URL"]


def _measure_events(
    app: Flask, owner: str, sizes: tuple[int, ...], rounds: int, results: Results
) -> None:
    """Pages of the audit list, of all tenants and of one, among ever more events of all tenants."""
    tenant = add_tenant(app)
    with app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        append_own(db.session, [make_event()])
        db.session.commit()
    scopes: Mapping[str, Scope] = {
        "": GlobalScope(access_id=uuid4()),
        ", in a tenant's scope": TenantScope(tenant.id),
    }
    reads: Reads = {
        what + where: partial(_read_events, scope, query)
        for where, scope in scopes.items()
        for what, query in FILTERS.items()
    }
    add = partial(filling.add_events, owner, tenant.id)
    _measure(app, "events", sizes, add, reads, rounds, results)


def _measure_rules(app: Flask, owner: str, rounds: int, results: Results) -> None:
    """A page of one tenant's rules, not cached, among the rules of ever more other tenants."""
    tenant = add_tenant(app)
    filling.add_tenant_rules(owner, "deny", "elsewhere.read", each=50, slugs=tenant.slug)

    def add(first: int, count: int) -> None:
        filling.add_tenants(owner, first, count)
        filling.add_tenant_rules(owner, "deny", "elsewhere.read", each=RULES_EACH)

    reads: Reads = {
        "a page of a tenant's rules, not cached": partial(_read_rules, TenantScope(tenant.id)),
        "a page of all rules, not cached": partial(_read_rules, GlobalScope(access_id=uuid4())),
    }
    _measure(app, "other tenants", TENANTS, add, reads, rounds, results)


def _measure(
    app: Flask,
    around: str,
    sizes: tuple[int, ...],
    add: Callable[[int, int], None],
    reads: Reads,
    rounds: int,
    results: Results,
) -> None:
    seconds: dict[str, dict[int, list[float]]] = {what: {} for what in reads}
    before = 0
    for size in sizes:
        add(before, size - before)
        before = size
        with app.app_context():
            for what, read in reads.items():
                results.expect(read() > 0, f"{what}, {size} {around}: no row")
                seconds[what][size] = [_slowest(read) for _ in range(rounds)]
    for what, by_size in seconds.items():
        points = tuple((size, median(times) * 1e3) for size, times in by_size.items())
        results.curves.append(Curve(f"{what}, p99", around, "ms", points))
        rates = ratios(by_size[sizes[0]], by_size[sizes[-1]])
        name, against = f"{what}, p99, {sizes[-1]:,} {around}", f"at {sizes[0]:,}"
        results.ratios.append(Ratio(name, against, rates, BAR))


def _slowest(read: Callable[[], int]) -> float:
    """The seconds within which 99 of 100 calls return."""
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        read()
        took.append(time.perf_counter() - began)
    return quantiles(took, n=100, method="inclusive")[-1]


def _read_events(scope: Scope, query: AuditQuery) -> int:
    with db.scoped(scope):
        return len(list_events(db.session, query).items)


def _read_rules(scope: Scope) -> int:
    with db.scoped(scope):
        return len(list_rules.uncached(scope, RuleQuery()).items)
