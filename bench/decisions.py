"""The cost of a decision as rules and tenants around it grow, beside Cedar alone on all rules."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

from flask import Flask

from bench import filling
from bench.result import Curve, Ratio, Results, ratios
from tests.applications import application
from webapp.caching import invalidate
from webapp.db.scopes import NO_EXCLUSION, Exclusion, GlobalScope, IdentityScope
from webapp.decisions import decide
from webapp.extensions import db
from webapp.http.state import begin_request
from webapp.rules import rule_sets
from webapp.rules.engine import cedar
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.engine.templates import policies_of
from webapp.rules.models import RuleRow
from webapp.rules.rule import ALL_RULES_TAG, RuleQuery, owner_tag
from webapp.rules.service import list_rules
from webapp.scope.decision import Allowed, Decision, GlobalTarget, Target, TenantTarget
from webapp.stack.home import open_stack, running

SURFACE = "billing.invoices.read"
RULES = (10, 1_000, 100_000)
COVERING = 10
"""Rules about SURFACE, however many rules there are."""

NARROWING = 1_000
"""Tenants with a rule that denies what the platform allows."""
TENANTS = (NARROWING, 100_000)

REPEATS = 20
ALL_TENANTS = GlobalTarget()
NO_TENANT = TenantTarget(None, "nobody")
"""A target that only the platform's rules decide about."""

KEPT = "a decision, kept"
DECIDED = "a decision"
READ = "a decision, its rules read and prepared"
CHANGED = "a decision after one tenant's change"
CEDAR = "Cedar alone on all rules"
PAGE = "a page of all tenants' rules, not cached"


@dataclass(frozen=True)
class Call:
    """What is timed, and how often it is repeated in a round."""

    call: Callable[[], object]
    repeats: int
    computes: bool = False
    """It asks no server. Its CPU time is measured then, which other load disturbs less."""


Calls = Mapping[str, Call]

Seconds = dict[str, dict[int, list[float]]]
"""The seconds of a call by its name and by the size of what is around it, one for each round."""


def measure_decisions(home: Path, rounds: int, results: Results) -> None:
    stack = open_stack(home, durable=False)
    owner = stack.environment["DATABASE_OWNER_URL"]
    environment = {**stack.environment, "SIGHTLINE_ENV": "qa", "SIGHTLINE_HOME": str(home)}
    with running(stack), application(environment) as app:
        _measure_rules(app, owner, rounds, results)
        _measure_tenants(app, owner, rounds, results)


def _measure_rules(app: Flask, owner: str, rounds: int, results: Results) -> None:
    """A decision by ten rules, among ever more rules about other surfaces."""
    seconds: Seconds = {}
    filling.add_platform_rules(owner, 0, COVERING, SURFACE)
    before = COVERING
    for total in RULES:
        filling.add_platform_rules(owner, before, total - before, "elsewhere.{n}.read")
        before = total
        with _request_of(app):
            _expect_allowed(app, total, results)
            _time(_decisions(app, total), total, rounds, seconds)
    _report(seconds, "rules", "µs", results)
    for total in RULES[1:]:
        at_first = f"at {RULES[0]} rules"
        for what in (DECIDED, READ):
            rates = ratios(seconds[what][RULES[0]], seconds[what][total])
            results.ratios.append(Ratio(f"{what}, {total:,} rules", at_first, rates, 0.8))
        rates = ratios(seconds[CEDAR][total], seconds[DECIDED][total])
        results.ratios.append(Ratio(f"{DECIDED}, {total:,} rules", CEDAR, rates, 10))


def _decisions(app: Flask, total: int) -> Calls:
    candidates = rule_sets.load(RuleRow.tenant_id.is_(None))
    every = cedar.prepare([policies_of(c.rule) for c in candidates if c.rule is not None])
    return {
        KEPT: Call(lambda: _decide_by_memory(NO_TENANT), REPEATS, computes=True),
        DECIDED: Call(lambda: _decide(NO_TENANT), REPEATS, computes=True),
        READ: Call(lambda: _read_and_decide(app, NO_TENANT), REPEATS),
        CEDAR: Call(lambda: _ask_cedar(every), 2 if total > 1_000 else REPEATS, computes=True),
    }


def _expect_allowed(app: Flask, total: int, results: Results) -> None:
    _forget(app)
    decision = _decide_by_memory(NO_TENANT)
    results.expect(isinstance(decision, Allowed), f"{total} rules: the decision is {decision}")


def _measure_tenants(app: Flask, owner: str, rounds: int, results: Results) -> None:
    """An access to all tenants, of whom a thousand deny it, among ever more who do not."""
    seconds: Seconds = {}
    filling.add_tenants(owner, 0, NARROWING)
    _add_narrowing_rules(owner)
    before = NARROWING
    for total in TENANTS:
        filling.add_tenants(owner, before, total - before)
        before = total
        with _request_of(app):
            excluded = _expect_excluded(app, total, results)
            _time(_accesses(app, excluded), total, rounds, seconds)
    _report(seconds, f"tenants, {NARROWING:,} left out", "ms", results)
    for what, by_size in seconds.items():
        rates = ratios(*(by_size[total] for total in TENANTS))
        name, against = f"{what}, {TENANTS[1]:,} tenants", f"at {TENANTS[0]:,} tenants"
        results.ratios.append(Ratio(name, against, rates, 0.5))


def _accesses(app: Flask, excluded: Exclusion) -> Calls:
    tenant_id = excluded.ids[0]
    return {
        f"{KEPT}, about all tenants": Call(
            lambda: _decide_by_memory(ALL_TENANTS), REPEATS, computes=True
        ),
        f"{DECIDED}, about all tenants": Call(lambda: _decide(ALL_TENANTS), 3, computes=True),
        f"{READ}, about all tenants": Call(lambda: _read_and_decide(app, ALL_TENANTS), 3),
        f"{CHANGED}, about all tenants": Call(
            lambda: _change_and_decide(tenant_id), 3, computes=True
        ),
        PAGE: Call(lambda: _read_page(excluded), REPEATS),
    }


def _expect_excluded(app: Flask, total: int, results: Results) -> Exclusion:
    _forget(app)
    decision = _decide_by_memory(ALL_TENANTS)
    ruled = decision.outcome if isinstance(decision, Allowed) else None
    excluded = ruled.excluded if ruled else NO_EXCLUSION
    left_out = len(excluded.tenants)
    results.expect(left_out == NARROWING, f"{total} tenants: {left_out} are left out")
    return excluded


def _time(calls: Calls, size: int, rounds: int, seconds: Seconds) -> None:
    for _ in range(rounds):
        for what, call in calls.items():
            call.call()  # a first call fills what the call before has emptied
            seconds.setdefault(what, {}).setdefault(size, []).append(_seconds(call))


def _seconds(call: Call) -> float:
    clock = time.thread_time if call.computes else time.perf_counter
    began = clock()
    for _ in range(call.repeats):
        call.call()
    return (clock() - began) / call.repeats


def _report(seconds: Seconds, around: str, unit: str, results: Results) -> None:
    factor = {"ms": 1e3, "µs": 1e6}[unit]
    for what, by_size in seconds.items():
        points = tuple((size, median(rounds) * factor) for size, rounds in by_size.items())
        results.curves.append(Curve(what, around, unit, points))


def _request() -> AuthorizationRequest:
    return AuthorizationRequest(
        email="engineer@example.org",
        roles=frozenset({"engineer"}),
        mfa=False,
        surface=SURFACE,
        reason="incident",
        ticket=None,
        ip="192.0.2.1",
    )


@contextmanager
def _request_of(app: Flask) -> Iterator[None]:
    """A request, in which each generation is read once."""
    with app.test_request_context():
        begin_request("bench")
        yield


def _decide_by_memory(target: Target) -> Decision:
    """As requests do: what was decided is kept until a rule changes."""
    return decide.decide_elevation(target, None, _request())


def _decide(target: Target) -> None:
    decide.decide_at(_request(), target, None, datetime.now(UTC))


def _read_and_decide(app: Flask, target: Target) -> None:
    """As in a process that has just begun, or after a rule has changed."""
    _forget(app)
    _decide(target)


def _change_and_decide(tenant_id: UUID) -> None:
    """As after a change of one tenant's rule, by the CPU time: the commit waits for the caches."""
    with db.scoped(IdentityScope()):
        invalidate(ALL_RULES_TAG, owner_tag(tenant_id))
        db.session.commit()
    _decide(ALL_TENANTS)


def _ask_cedar(every: cedar.Prepared) -> None:
    cedar.ask(every, _request(), datetime.now(UTC), approved=False, granted=False)


def _read_page(excluded: Exclusion) -> None:
    scope = GlobalScope(uuid4(), excluded)
    with db.scoped(scope):
        list_rules.uncached(scope, RuleQuery())


def _forget(app: Flask) -> None:
    """Empty what the process keeps of rules and decisions."""
    rule_sets.init_app(app)
    decide.init_app(app)


def _add_narrowing_rules(owner: str) -> None:
    """Give each tenant that there is a rule that denies, and two more that do not count here."""
    for effect, surface in (
        ("deny", SURFACE),
        ("require_approval", "elsewhere.exports"),
        ("allow", SURFACE),
    ):
        filling.add_tenant_rules(owner, effect, surface)
