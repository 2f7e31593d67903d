"""What a decision costs, with ever more rules and tenants around it, beside Cedar alone on all."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from uuid import uuid4

from flask import Flask

from bench import database
from bench.result import Figure, Ratio, Results
from tests.applications import application
from webapp.caching import GenerationCache
from webapp.db.scopes import NO_EXCLUSION, Exclusion, GlobalScope
from webapp.decisions.decide import decide_at, decide_elevation
from webapp.extensions import db
from webapp.rules import rule_sets as sets
from webapp.rules.engine import cedar
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.engine.templates import policies_of
from webapp.rules.models import RuleRow
from webapp.rules.rule import RuleQuery
from webapp.rules.service import list_rules
from webapp.scope.decision import Allowed, GlobalTarget, Target, TenantTarget
from webapp.stack.home import open_stack, running

SURFACE = "billing.invoices.read"
RULES = (10, 1_000, 100_000)
COVERING = 10
"""Of however many rules, those about the surface."""

NARROWING = 1_000
TENANTS = 100_000
REPEATS = 20
TOGETHER = GlobalTarget()

_TABLES = ("rules", "tenants")
_LIFT = "".join(f"alter table {table} no force row level security;" for table in _TABLES)
_FORCE = "".join(f"; alter table {table} force row level security" for table in _TABLES)
"""Around what is added here: row level security is forced on the owner too."""

_RULES = (
    "insert into rules (id, tenant_id, name, description, effect, subjects, surfaces, reasons,"
    " windows, networks, mfa, min_approvals, approver_roles, enabled, version, created_by,"
    " updated_by) select gen_random_uuid(), {tenant}, {name}, '', '{effect}',"
    """ '{{"roles": ["engineer"], "users": []}}', array['{surface}'], array['incident'], '[]',"""
    " '{{}}', false, 1, '{{}}', true, 1, 'bench', 'bench' from {source}"
)


def measure_decisions(home: Path, rounds: int, results: Results) -> None:
    stack = open_stack(home, durable=False)
    owner = stack.environment["DATABASE_OWNER_URL"]
    environment = {"SIGHTLINE_ENV": "qa", "SIGHTLINE_HOME": str(home), **stack.environment}
    with running(stack), application(environment) as app:
        _measure_rules(app, owner, rounds, results)
        _measure_tenants(app, owner, rounds, results)


Seconds = dict[tuple[str, int], list[float]]
"""Of a call, by what it does and by how much there is, a round each."""

Calls = dict[str, tuple[Callable[[], object], int]]
"""What is timed, and how often it is repeated in a round."""


def _measure_rules(app: Flask, owner: str, rounds: int, results: Results) -> None:
    seconds: Seconds = {}
    there = 0
    for total in RULES:
        covering = COVERING if there == 0 else 0
        _add_rules(owner, there, covering, SURFACE)
        _add_rules(owner, there + covering, total - there - covering, "elsewhere.{n}.read")
        there = total
        with app.test_request_context():  # in which each generation is read once
            _time_rules(app, total, rounds, seconds, results)
    for what in ("remembered", "decided", "read and decided", "cedar"):
        for total in RULES:
            name = "Cedar alone on all of them" if what == "cedar" else f"a decision, {what}"
            value = median(seconds[what, total]) * 1e6
            results.figures.append(Figure(f"{name}, {total:,} rules", value, "µs"))
    for total in RULES[1:]:
        for what in ("decided", "read and decided"):
            rates = _ratios(seconds[what, RULES[0]], seconds[what, total])
            name = f"a decision, {what}, {total:,} rules"
            results.ratios.append(Ratio(name, f"at {RULES[0]} rules", rates, 0.5))
        rates = _ratios(seconds["cedar", total], seconds["decided", total])
        name = f"a decision, {total:,} rules"
        results.ratios.append(Ratio(name, "Cedar alone on all of them", rates, 1 / 0.3))


def _time_rules(app: Flask, total: int, rounds: int, seconds: Seconds, results: Results) -> None:
    _forget(app)
    alone = TenantTarget(None, "nobody")
    decided = decide_elevation(alone, None, _about())
    results.expect(isinstance(decided, Allowed), f"{total} rules: the decision is {decided}")
    loaded = sets.load(RuleRow.tenant_id.is_(None))
    every = cedar.prepare([policies_of(c.rule) for c in loaded if c.rule is not None])
    few = 2 if total > RULES[1] else REPEATS
    calls: Calls = {
        "remembered": (lambda: decide_elevation(alone, None, _about()), REPEATS),
        "decided": (lambda: decide_at(_about(), alone, None, datetime.now(UTC)), REPEATS),
        "read and decided": (lambda: _afresh(app, alone), REPEATS),
        "cedar": (lambda: _ask_cedar(every), few),
    }
    _time(calls, total, rounds, seconds)


def _measure_tenants(app: Flask, owner: str, rounds: int, results: Results) -> None:
    """A thousand tenants that say no, among themselves and among a hundred thousand."""
    seconds: Seconds = {}
    _add_tenants(owner, 0, NARROWING)
    _add_narrowing(owner)
    for total in (NARROWING, TENANTS):
        _add_tenants(owner, NARROWING, total - NARROWING)
        with app.test_request_context():
            _time_tenants(app, total, rounds, seconds, results)
    for what in ("remembered", "decided", "read and decided", "a page"):
        name = f"an access to all tenants, {what}"
        for total in (NARROWING, TENANTS):
            note = f"{total:,} tenants, {NARROWING:,} left out"
            value = median(seconds[what, total]) * 1e3
            results.figures.append(Figure(name, value, "ms", note))
        rates = _ratios(seconds[what, NARROWING], seconds[what, TENANTS])
        results.ratios.append(Ratio(f"{name}, {TENANTS:,}", f"{NARROWING:,} tenants", rates, 0.5))


def _time_tenants(app: Flask, total: int, rounds: int, seconds: Seconds, results: Results) -> None:
    _forget(app)
    decided = decide_elevation(TOGETHER, None, _about())
    ruled = decided.ruled if isinstance(decided, Allowed) else None
    excluded = ruled.excluded if ruled else NO_EXCLUSION
    left_out = len(excluded.tenants)
    results.expect(left_out == NARROWING, f"{total} tenants: {left_out} are left out")
    calls: Calls = {
        "remembered": (lambda: decide_elevation(TOGETHER, None, _about()), REPEATS),
        "decided": (lambda: decide_at(_about(), TOGETHER, None, datetime.now(UTC)), 3),
        "read and decided": (lambda: _afresh(app, TOGETHER), 3),
        "a page": (lambda: _page(excluded), REPEATS),
    }
    _time(calls, total, rounds, seconds)


def _time(calls: Calls, total: int, rounds: int, seconds: Seconds) -> None:
    for _ in range(rounds):
        for what, (call, repeats) in calls.items():
            call()  # what was forgotten before is none of its business
            seconds.setdefault((what, total), []).append(_seconds(call, repeats))


def _about() -> AuthorizationRequest:
    return AuthorizationRequest(
        email="engineer@example.org",
        roles=frozenset({"engineer"}),
        mfa=False,
        surface=SURFACE,
        reason="incident",
        ticket=None,
        ip="192.0.2.1",
    )


def _ask_cedar(every: cedar.Prepared) -> None:
    cedar.ask(every, _about(), datetime.now(UTC), approved=False, granted=False)


def _afresh(app: Flask, target: Target) -> None:
    """As in a process that has just begun, or after a rule has changed."""
    _forget(app)
    decide_at(_about(), target, None, datetime.now(UTC))


def _page(excluded: Exclusion) -> None:
    scope = GlobalScope(uuid4(), excluded)
    with db.session.scoped(scope):
        list_rules.uncached(scope, RuleQuery())


def _forget(app: Flask) -> None:
    sets.init_app(app)
    app.extensions["sightline.decisions"] = GenerationCache()


def _seconds(call: Callable[[], object], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def _ratios(slow: list[float], quick: list[float]) -> tuple[float, ...]:
    return tuple(one / other for one, other in zip(slow, quick, strict=True))


def _add_rules(owner: str, first: int, count: int, surface: str) -> None:
    said = surface.replace("{n}", "' || n || '")
    source = f"generate_series({first}, {first + count - 1}) n"
    _insert(owner, tenant="null", name="'rule ' || n", effect="allow", surface=said, source=source)


def _add_narrowing(owner: str) -> None:
    for effect, surface in (
        ("deny", SURFACE),
        ("require_approval", "elsewhere.exports"),
        ("allow", SURFACE),
    ):
        _insert(
            owner,
            tenant="tenants.id",
            name=f"'{effect}'",
            effect=effect,
            surface=surface,
            source="tenants where slug like 'bench-%'",
        )


def _insert(owner: str, **parts: str) -> None:
    _write(owner, _LIFT + _RULES.format(**parts) + _FORCE)


def _add_tenants(owner: str, first: int, count: int) -> None:
    numbers = f"generate_series({first}, {first + count - 1}) n"
    added = "insert into tenants (id, slug, name) select gen_random_uuid(), 'bench-' || n, 'Bench'"
    _write(owner, f"{_LIFT}{added} from {numbers}{_FORCE}")


def _write(owner: str, statement: str) -> None:
    database.run(owner, f"{statement}; analyze rules; analyze tenants")
