"""Check the rules in use, and find those that applied to no recorded access."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import get_args
from uuid import UUID

from webapp.rules.checks.findings import (
    RuleFinding,
    find_above_quota,
    find_connecting_address,
    find_contradictory,
    find_never_matched,
    find_unreachable,
    find_unreadable,
    is_readable,
)
from webapp.rules.engine.evaluate import Candidate, RuleSet, combine, prepare
from webapp.rules.narrowing import prepare_by_tenant
from webapp.rules.quotas import LIMITS
from webapp.rules.rule import Effect, surfaces_covering
from webapp.rules.simulation.history import PastAccess, read_history
from webapp.rules.simulation.request_classes import RequestClasses
from webapp.settings import current_settings


def check_rules(candidates: Iterable[Candidate], days: int) -> list[RuleFinding]:
    """Check rules, also against the recorded accesses that the session's scope sees."""
    every = list(candidates)
    now = datetime.now(UTC)
    readable = [c for c in every if c.rule is not None and is_readable(c.rule)]
    rules = [c.rule for c in readable if c.rule is not None]
    unreachable = list(find_unreachable(rules, now))
    idle = {finding.rule_id for finding in unreachable}
    reachable = [candidate for candidate in readable if candidate.id not in idle]
    history = (page.accesses for page in read_history(now - timedelta(days=days)))
    matched = find_matched(reachable, chain.from_iterable(history))
    checked = [c.rule for c in reachable if c.rule is not None]
    return [
        *find_unreadable(every),
        *unreachable,
        *find_contradictory(rules),
        *find_never_matched(checked, matched, days),
        *find_above_quota(rules, *LIMITS),
        *(find_connecting_address(rules) if current_settings().trusted_proxies is None else ()),
    ]


def find_matched(
    candidates: Iterable[Candidate], accesses: Iterable[PastAccess]
) -> frozenset[UUID]:
    """Find which of these readable rules apply to any of the accesses, whatever was decided."""
    every = list(candidates)
    evaluators: dict[str, _Evaluator] = {}
    matched: set[UUID] = set()
    for access in accesses:
        surface = access.request.surface
        evaluator = evaluators.get(surface)
        if evaluator is None:
            evaluator = evaluators[surface] = _Evaluator(every, surface)
        matched |= evaluator.match(access)
    return frozenset(matched)


class _Evaluator:
    """Evaluates the rules that cover one surface, once for each class of requests."""

    def __init__(self, candidates: Iterable[Candidate], surface: str) -> None:
        covering = set(surfaces_covering(surface))
        on_surface = [c for c in candidates if c.rule and not covering.isdisjoint(c.rule.surfaces)]
        # One set for each effect: Cedar names only the strongest effect that applies.
        self._sets: list[RuleSet] = [
            _prepare(c for c in on_surface if c.rule and c.rule.effect == effect)
            for effect in get_args(Effect)
        ]
        self._classes = RequestClasses(c.rule for c in on_surface if c.rule)
        self._known: set[object] = set()

    def match(self, access: PastAccess) -> set[UUID]:
        """The rules that apply to an access; empty if its class was evaluated before."""
        target = access.everywhere or access.tenant_id
        request_class = (target, self._classes.class_of(access.request, access.at))
        if request_class in self._known:
            return set()
        self._known.add(request_class)
        return {
            candidate.id
            for rules in self._sets
            for candidate in self._applying(rules, access)
            if access.everywhere or candidate.tenant_id in (None, access.tenant_id)
        }

    def _applying(self, rules: RuleSet, access: PastAccess) -> tuple[Candidate, ...]:
        evaluation = rules.evaluate(access.request, access.at)
        return (*evaluation.denying, *evaluation.approving, *evaluation.allowing)


def _prepare(candidates: Iterable[Candidate]) -> RuleSet:
    """Prepare rules of any owner. A tenant's rules over the budget apply to every access."""
    every = list(candidates)
    platform = prepare(candidate for candidate in every if candidate.tenant_id is None)
    return combine([platform, prepare_by_tenant(every)])
