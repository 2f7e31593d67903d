"""The rules of all tenants that cover one surface, kept prepared tenant by tenant.

An access to all tenants evaluates the rules of each of them. Evaluating each tenant's rules alone
would take too long, and preparing them all together would make a change by one tenant cost what
everybody's rules cost. So tenants with few conditions share groups, and each of the others is a
group of its own. A group is prepared again when a rule of one of its tenants has changed.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from time import monotonic
from uuid import UUID

import structlog
from prometheus_client import Counter

from webapp.rules.engine.evaluate import (
    NO_RULES,
    Candidate,
    RuleSet,
    combine,
    count_all_conditions,
    prepare,
)

BUDGET = 2.0
"""Seconds of CPU time that the rules of one tenant may take to prepare, for one surface."""

GROUP_TENANTS, GROUP_CONDITIONS = 64, 500
"""How many tenants share a group, and how many conditions these have, on average at most."""

SHARED_CONDITIONS = 20
"""A tenant with more conditions than this shares its group with nobody."""

ALL_CONDITIONS = 100_000
"""Conditions of all tenants' rules together that are prepared for one surface. The tenants with the
fewest come first. A decision about all tenants takes 0.1 s of CPU time with so many."""

TENANT_RULES, TENANT_CONDITIONS = 1_000, 20_000
"""How many rules and conditions of one tenant are loaded at most, for one surface. More would take
longer than BUDGET anyway; only rules that are older than the quotas can be so many."""

Generations = Mapping[UUID, int]
"""The generation of the rules of each tenant that has any."""

LoadRules = Callable[[Collection[UUID]], Iterable[Candidate]]
"""Load the rules of these tenants."""


log = structlog.get_logger()

OVER_BUDGET = Counter(
    "sightline_rules_over_budget_total",
    "Times that one tenant's rules took too long to prepare: the tenant counts as having denied.",
)


@dataclass(frozen=True, eq=False)
class TenantRules:
    """A tenant's rules at a generation. Equal only to itself."""

    tenant_id: UUID
    generation: int
    candidates: tuple[Candidate, ...]

    @cached_property
    def conditions(self) -> int:
        return count_all_conditions(self.candidates)

    @property
    def is_small(self) -> bool:
        """Whether the tenant shares a group with others."""
        return self.conditions <= SHARED_CONDITIONS


@dataclass(frozen=True)
class Group:
    """Tenants whose rules are prepared together."""

    members: tuple[TenantRules, ...]
    rules: RuleSet


@dataclass(frozen=True)
class NarrowingRules:
    """All tenants' rules on a surface. Begin with `NarrowingRules()`, and renew that."""

    rules: RuleSet = NO_RULES
    _tenants: Mapping[UUID, TenantRules] = field(default_factory=dict)
    _groups: Mapping[Hashable, Group] = field(default_factory=dict)
    _shared_groups: int = 1
    """How many groups there are for tenants with few conditions. It never shrinks: otherwise a
    tenant at the limit could have everybody's rules prepared again by each of its changes."""
    _too_large: frozenset[UUID] = frozenset()

    def renew(
        self,
        generations: Generations,
        load: LoadRules,
        deadline: float,
        too_large: frozenset[UUID] = frozenset(),
    ) -> "NarrowingRules":
        """Load the rules of the tenants whose generation has changed, and prepare their groups.

        Those of tenants that are `too_large` are not loaded: these tenants count as having denied,
        as tenants over the budget do. Of the groups that are left at the `deadline`, by the
        monotonic clock, each tenant counts as having denied until the next renewal.
        """
        tenants = self._load(generations, load)
        shared_groups = _count_groups(tenants.values(), self._shared_groups)
        groups: dict[Hashable, Group] = {}
        missing: dict[Hashable, tuple[TenantRules, ...]] = {}
        for key, members in _grouped(tenants.values(), shared_groups).items():
            known = self._groups.get(key)
            if known is not None and known.members == members:
                groups[key] = known
            else:
                missing[key] = members
        left: list[Candidate] = []
        # The small groups first: they have the most tenants.
        for key, members in sorted(missing.items(), key=lambda item: _conditions(item[1])):
            if monotonic() >= deadline:
                left += _candidates(members)
            else:
                groups[key] = Group(members, _prepare(members))
        denying = RuleSet(unreadable=tuple(left), pending=bool(left))
        unloaded = tuple(map(unloaded_rules, sorted(too_large)))
        _note_too_large(too_large - self._too_large)
        rules = combine(
            [
                *(group.rules for group in groups.values()),
                denying,
                RuleSet(unreadable=unloaded, over_budget=unloaded),
            ]
        )
        return NarrowingRules(rules, tenants, groups, shared_groups, too_large)

    @property
    def conditions(self) -> int:
        """The conditions of all the rules that are loaded."""
        return _conditions(self._tenants.values())

    def _load(self, generations: Generations, load: LoadRules) -> Mapping[UUID, TenantRules]:
        known = self._tenants
        changed = {
            tenant_id
            for tenant_id, generation in generations.items()
            if tenant_id not in known or known[tenant_id].generation != generation
        }
        loaded: defaultdict[UUID | None, list[Candidate]] = defaultdict(list)
        for candidate in load(changed) if changed else ():
            loaded[candidate.tenant_id].append(candidate)
        return {
            tenant_id: TenantRules(tenant_id, generation, tuple(loaded[tenant_id]))
            if tenant_id in changed
            else known[tenant_id]
            for tenant_id, generation in generations.items()
        }


def unloaded_rules(tenant_id: UUID) -> Candidate:
    """Stands for all rules of a tenant that are not loaded. It denies."""
    return Candidate(tenant_id, tenant_id, None)


def _note_too_large(tenants: Collection[UUID]) -> None:
    OVER_BUDGET.inc(len(tenants))
    for tenant_id in sorted(tenants):
        log.warning("rules_over_budget", tenant_id=str(tenant_id), rules=None)


def prepare_within_budget(candidates: Iterable[Candidate]) -> RuleSet:
    """Prepare one tenant's rules. If that takes longer than BUDGET, the tenant has denied."""
    rules = prepare(candidates, BUDGET)
    if rules.over_budget:
        OVER_BUDGET.inc()
        tenant_id, count = rules.over_budget[0].tenant_id, len(rules.over_budget)
        log.warning("rules_over_budget", tenant_id=str(tenant_id), rules=count)
    return rules


def prepare_by_tenant(candidates: Iterable[Candidate]) -> RuleSet:
    """Prepare the tenants' rules among these, each within its tenant's budget."""
    rules = [candidate for candidate in candidates if candidate.tenant_id is not None]
    tenants = {candidate.tenant_id: 0 for candidate in rules if candidate.tenant_id is not None}
    return NarrowingRules().renew(tenants, lambda _: rules, inf).rules


def _prepare(members: Sequence[TenantRules]) -> RuleSet:
    candidates = _candidates(members)
    return prepare(candidates) if members[0].is_small else prepare_within_budget(candidates)


def _count_groups(tenants: Iterable[TenantRules], groups: int) -> int:
    """How many groups the small tenants need; at least as many as there are."""
    small = [tenant for tenant in tenants if tenant.is_small]
    conditions = _conditions(small)
    while len(small) > GROUP_TENANTS * groups or conditions > GROUP_CONDITIONS * groups:
        groups *= 2
    return groups


def _grouped(
    tenants: Iterable[TenantRules], shared_groups: int
) -> Mapping[Hashable, tuple[TenantRules, ...]]:
    groups: defaultdict[Hashable, list[TenantRules]] = defaultdict(list)
    for tenant in sorted(tenants, key=lambda tenant: tenant.tenant_id):
        key = tenant.tenant_id.int % shared_groups if tenant.is_small else tenant.tenant_id
        groups[key].append(tenant)
    return {key: tuple(members) for key, members in groups.items()}


def _candidates(members: Iterable[TenantRules]) -> list[Candidate]:
    return [candidate for tenant in members for candidate in tenant.candidates]


def _conditions(members: Iterable[TenantRules]) -> int:
    return sum(tenant.conditions for tenant in members)
