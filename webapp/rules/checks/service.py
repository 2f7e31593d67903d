"""Check the rules that are in use, and find in the ledger which of them accesses have met."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import get_args
from uuid import UUID

from webapp.rules.checks.findings import (
    Finding,
    find_connecting_address,
    find_contradictory,
    find_never_matched,
    find_unreachable,
    find_unreadable,
    is_readable,
)
from webapp.rules.engine.evaluate import Candidate, RuleSet, prepare
from webapp.rules.rule import Effect, surfaces_covering
from webapp.rules.simulation.history import PastAccess, RequestClasses
from webapp.rules.simulation.past_accesses import read_past_accesses
from webapp.settings import current_settings


def check_rules(candidates: Iterable[Candidate], days: int) -> list[Finding]:
    """Check the rules in use, against the accesses that the session's scope sees."""
    every = list(candidates)
    now = datetime.now(UTC)
    readable = [c for c in every if c.rule is not None and is_readable(c.rule)]
    rules = [c.rule for c in readable if c.rule is not None]
    unreachable = list(find_unreachable(rules, now))
    idle = {finding.rule_id for finding in unreachable}
    reachable = [candidate for candidate in readable if candidate.id not in idle]
    matched = find_matched(reachable, read_past_accesses(now - timedelta(days=days)))
    met = [c.rule for c in reachable if c.rule is not None]
    return [
        *find_unreadable(every),
        *unreachable,
        *find_contradictory(rules),
        *find_never_matched(met, matched, days),
        *(find_connecting_address(rules) if current_settings().trusted_proxies is None else ()),
    ]


def find_matched(
    candidates: Iterable[Candidate], accesses: Iterable[PastAccess]
) -> frozenset[UUID]:
    """Which of these readable rules were about any of the accesses, whatever came of it."""
    every = list(candidates)
    benches: dict[str, _Evaluator] = {}
    matched: set[UUID] = set()
    for access in accesses:
        surface = access.request.surface
        bench = benches.get(surface)
        if bench is None:
            bench = benches[surface] = _Evaluator(every, surface)
        matched |= bench.match(access)
    return frozenset(matched)


class _Evaluator:
    """The rules that cover one surface, asked of each class of accesses once."""

    def __init__(self, candidates: Iterable[Candidate], surface: str) -> None:
        covering = set(surfaces_covering(surface))
        over = [c for c in candidates if c.rule and not covering.isdisjoint(c.rule.surfaces)]
        # One effect at a time: of rules that say different things only the stronger are told.
        self._sets: list[RuleSet] = [
            prepare(c for c in over if c.rule and c.rule.effect == effect)
            for effect in get_args(Effect)
        ]
        self._distinctions = RequestClasses(c.rule for c in over if c.rule)
        self._known: set[object] = set()

    def match(self, access: PastAccess) -> set[UUID]:
        """The rules that an access of a new class meets."""
        place = access.everywhere or access.tenant_id
        kind = (place, self._distinctions.class_of(access.request, access.at))
        if kind in self._known:
            return set()
        self._known.add(kind)
        return {
            candidate.id
            for rules in self._sets
            for candidate in self._met(rules, access)
            if access.everywhere or candidate.tenant_id in (None, access.tenant_id)
        }

    def _met(self, rules: RuleSet, access: PastAccess) -> tuple[Candidate, ...]:
        evaluation = rules.evaluate(access.request, access.at)
        return (*evaluation.denying, *evaluation.approving, *evaluation.allowing)
