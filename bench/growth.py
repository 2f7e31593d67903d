"""How the lists read from the database as the rows around them grow: modest sizes, and no bars."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from uuid import uuid4

from flask import Flask

from bench import filling
from bench.result import Curve, Ratio, Results, ratios
from tests.applications import application
from tests.audit.events import make_event
from tests.factories import MadeTenant, add_tenant
from webapp.audit.append import append_own
from webapp.audit.models import AuditEventRow
from webapp.db.base import Base
from webapp.db.scopes import GlobalScope, TenantScope
from webapp.extensions import db
from webapp.ledger.search import AuditQuery, list_events
from webapp.rules.rule import RuleQuery
from webapp.rules.service import list_rules
from webapp.stack.home import open_stack, running

EVENTS = (10_000, 100_000)
TENANTS = (100, 10_000)
RULES_EACH = 10
"""Rules that each other tenant gets whenever tenants are added."""
REPEATS = 5

Reads = Mapping[str, Callable[[], int]]
"""What is read, by its name; each returns how many rows its page has."""


def measure_growth(home: Path, rounds: int, results: Results) -> None:
    stack = open_stack(home, durable=False)
    owner = stack.environment["DATABASE_OWNER_URL"]
    environment = {"SIGHTLINE_ENV": "qa", "SIGHTLINE_HOME": str(home), **stack.environment}
    with running(stack), application(environment) as app:
        _measure_events(app, owner, rounds, results)
        _measure_rules(app, owner, rounds, results)


def _measure_events(app: Flask, owner: str, rounds: int, results: Results) -> None:
    """Pages of the audit list among ever more events of ever the same people."""
    table = Base.metadata.tables[AuditEventRow.__tablename__]
    columns = tuple(c.name for c in table.columns if c.server_default is None)
    with app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        append_own(db.session, [make_event()])
        db.session.commit()

    def add(first: int, count: int) -> None:
        filling.copy_events(owner, columns, first, count)

    reads: Reads = {
        "a page of the audit list": lambda: _read_events(AuditQuery()),
        "a page of one actor's events": lambda: _read_events(
            AuditQuery(actor="user-7@example.org")
        ),
    }
    _measure(app, "events", EVENTS, add, reads, rounds, results)


def _measure_rules(app: Flask, owner: str, rounds: int, results: Results) -> None:
    """A page of one tenant's rules, not cached, among the rules of ever more other tenants."""
    tenant = add_tenant(app)
    filling.add_tenant_rules(owner, "deny", "elsewhere.read", each=50, slugs=tenant.slug)

    def add(first: int, count: int) -> None:
        filling.add_tenants(owner, first, count)
        filling.add_tenant_rules(owner, "deny", "elsewhere.read", each=RULES_EACH)

    reads: Reads = {"a page of a tenant's rules, not cached": lambda: _read_rules(tenant)}
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
                seconds[what][size] = [_time(read) for _ in range(rounds)]
    for what, by_size in seconds.items():
        points = tuple((size, median(times) * 1e3) for size, times in by_size.items())
        results.curves.append(Curve(what, around, "ms", points))
        rates = ratios(by_size[sizes[0]], by_size[sizes[-1]])
        name, against = f"{what}, {sizes[-1]:,} {around}", f"at {sizes[0]:,}"
        results.ratios.append(Ratio(name, against, rates, None))


def _time(read: Callable[[], int]) -> float:
    began = time.perf_counter()
    for _ in range(REPEATS):
        read()
    return (time.perf_counter() - began) / REPEATS


def _read_events(query: AuditQuery) -> int:
    with db.scoped(GlobalScope(access_id=uuid4())):
        return len(list_events(db.session, query).items)


def _read_rules(tenant: MadeTenant) -> int:
    scope = TenantScope(tenant.id)
    with db.scoped(scope):
        return len(list_rules.uncached(scope, RuleQuery()).items)
