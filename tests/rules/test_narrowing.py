"""All tenants' rules on a surface: what a change has prepared again, and what the budgets do."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from math import inf
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from tests.rules.engine.questions import ACCESS, ALLOW, DENY, NOON, RULE, SLUGS, rule
from webapp.rules import narrowing
from webapp.rules.engine import evaluate
from webapp.rules.engine.evaluate import Candidate, Verdict, decide, prepare, valid_until
from webapp.rules.narrowing import (
    GROUP_CONDITIONS,
    GROUP_TENANTS,
    SHARED_CONDITIONS,
    NarrowingRules,
)
from webapp.rules.rule import Subjects

TENANTS = tuple(UUID(int=number) for number in range(1, 4 * GROUP_TENANTS + 1))
PLATFORM = prepare([rule(ALLOW)])
OVERDUE = -inf


@pytest.fixture(autouse=True)
def _slugs() -> Iterator[None]:
    with mock.patch.dict(SLUGS, {tenant: f"t{tenant.int}" for tenant in TENANTS}):
        yield


@pytest.fixture
def prepared() -> Iterator[list[int]]:
    """The number of rules in each call that prepared some."""
    counts = []

    def count(drafts: list[Any]) -> evaluate.RuleSet:
        counts.append(len(drafts))
        return unpatched(drafts)

    unpatched = evaluate._prepare
    with mock.patch.object(evaluate, "_prepare", count):
        yield counts


class Store:
    """Tenants' rules and their generations, as the database has them."""

    def __init__(self, tenants: Iterable[UUID]) -> None:
        self.rules: dict[UUID, list[Candidate]] = {}
        self.generations: dict[UUID, int] = {}
        self.loaded: list[Collection[UUID]] = []
        for tenant in tenants:
            self.write(tenant, [deny(tenant)])

    def write(self, tenant: UUID, rules: list[Candidate]) -> None:
        self.rules[tenant] = rules
        self.generations[tenant] = self.generations.get(tenant, 0) + 1

    def load(self, tenants: Collection[UUID]) -> list[Candidate]:
        self.loaded.append(tenants)
        return [candidate for tenant in tenants for candidate in self.rules[tenant]]

    def renew(self, known: NarrowingRules, deadline: float = inf) -> NarrowingRules:
        return known.renew(self.generations, self.load, deadline)


def deny(tenant: UUID, number: int = 0, **fields: object) -> Candidate:
    """A tenant's rule with one condition, the surface."""
    return rule(DENY, 1000 * tenant.int + number, of=tenant, **fields)


def large(tenant: UUID, number: int = 0) -> Candidate:
    """A rule with more conditions than tenants who share a group may have."""
    users = tuple(f"{name}@example.org" for name in range(SHARED_CONDITIONS))
    return deny(tenant, number, subjects=Subjects(("support",), users))


def for_fraud(candidate: Candidate) -> Candidate:
    """The same rule, for a reason that the access does not have."""
    assert candidate.rule is not None
    return replace(candidate, rule=replace(candidate.rule, reasons=("fraud",)))


def verdict_of(rules: NarrowingRules) -> Verdict:
    return decide(PLATFORM, rules.rules, ACCESS, NOON, everywhere=True)


def excluded(rules: NarrowingRules) -> frozenset[UUID]:
    return verdict_of(rules).excluded.tenants


def test_change_by_one_tenant_loads_and_prepares_only_its_group(prepared: list[int]) -> None:
    store = Store(TENANTS)
    before = store.renew(NarrowingRules())
    assert sum(prepared) == len(TENANTS)
    assert excluded(before) == set(TENANTS)
    prepared.clear()
    changed = TENANTS[7]
    store.write(changed, [deny(changed, reasons=("fraud",))])
    after = store.renew(before)
    assert store.loaded == [set(TENANTS), {changed}]
    assert (len(prepared), sum(prepared)) == (1, GROUP_TENANTS)
    assert excluded(after) == set(TENANTS) - {changed}


def test_renewal_without_a_change_loads_and_prepares_nothing(prepared: list[int]) -> None:
    store = Store(TENANTS)
    before = store.renew(NarrowingRules())
    prepared.clear()
    store.loaded.clear()
    assert excluded(store.renew(before)) == set(TENANTS)
    assert (prepared, store.loaded) == ([], [])


def test_large_tenant_is_prepared_again_by_its_own_changes_alone(prepared: list[int]) -> None:
    """Neither do its changes have the others prepared again, nor theirs have it."""
    store = Store(TENANTS)
    giant, other = TENANTS[0], TENANTS[GROUP_TENANTS]
    store.write(giant, [large(giant, number) for number in range(3)])
    rules = store.renew(NarrowingRules())
    for changed, expected in ((giant, 3), (other, GROUP_TENANTS - 1)):
        prepared.clear()
        store.write(changed, list(store.rules[changed]))
        rules = store.renew(rules)
        assert sum(prepared) == expected
        assert excluded(rules) == set(TENANTS)


def test_tenant_that_grows_and_shrinks_is_in_one_group_at_a_time() -> None:
    store = Store(TENANTS)
    tenant, rules = TENANTS[3], NarrowingRules()
    for candidates in ([large(tenant)], [deny(tenant)], [large(tenant)], []):
        store.write(tenant, candidates)
        rules = store.renew(rules)
        ids = [candidate.id for candidate in rules.rules.candidates]
        assert len(ids) == len(set(ids)) == len(TENANTS) - (not candidates)


def test_tenant_without_rules_is_forgotten() -> None:
    store = Store(TENANTS)
    before = store.renew(NarrowingRules())
    del store.generations[TENANTS[0]]
    assert excluded(store.renew(before)) == set(TENANTS[1:])


def test_more_tenants_are_split_into_more_groups_and_fewer_do_not_join_them(
    prepared: list[int],
) -> None:
    """So a tenant that comes and goes has everybody's rules prepared again only once."""
    few = TENANTS[:GROUP_TENANTS]
    store, coming = Store(few), TENANTS[GROUP_TENANTS]
    rules = store.renew(NarrowingRules())
    store.write(coming, [deny(coming)])
    rules = store.renew(rules)
    prepared.clear()
    for _ in range(3):
        del store.generations[coming]
        rules = store.renew(rules)
        store.write(coming, [deny(coming)])
        rules = store.renew(rules)
    assert max(prepared) <= GROUP_TENANTS // 2 + 1
    assert excluded(rules) == {*few, coming}


def test_tenants_with_more_conditions_share_their_group_with_fewer(prepared: list[int]) -> None:
    store = Store(())
    users = tuple(f"{number}@example.org" for number in range(SHARED_CONDITIONS - 1))
    for tenant in TENANTS:
        store.write(tenant, [deny(tenant, subjects=Subjects((), users), reasons=())])
    rules = store.renew(NarrowingRules())
    assert sum(prepared) == len(TENANTS)
    assert max(prepared) * SHARED_CONDITIONS <= GROUP_CONDITIONS
    assert excluded(rules) == set()


def test_tenants_left_at_the_deadline_are_excluded_until_they_are_prepared() -> None:
    store = Store(TENANTS)
    fraud = {tenant: [deny(tenant, reasons=("fraud",))] for tenant in TENANTS}
    for tenant, rules in fraud.items():
        store.write(tenant, rules)
    late = store.renew(NarrowingRules(), OVERDUE)
    assert excluded(late) == set(TENANTS)
    assert valid_until(verdict_of(late), [late.rules], NOON) == NOON
    ready = store.renew(late)
    assert excluded(ready) == set()
    assert valid_until(verdict_of(ready), [ready.rules], NOON) is None
    assert store.loaded == [set(TENANTS)]


def test_tenant_left_at_the_deadline_does_not_exclude_those_that_are_prepared() -> None:
    store = Store(TENANTS)
    for tenant in TENANTS:
        store.write(tenant, [deny(tenant, reasons=("fraud",))])
    changed = TENANTS[5]
    store.write(changed, [for_fraud(large(changed))])
    ready = store.renew(NarrowingRules())
    store.write(changed, [for_fraud(large(changed))])
    assert excluded(store.renew(ready, OVERDUE)) == {changed}


def over_budget() -> float | None:
    return REGISTRY.get_sample_value("sightline_rules_over_budget_total")


def test_tenant_above_the_budget_has_denied_and_the_others_decide(
    monkeypatch: pytest.MonkeyPatch, prepared: list[int]
) -> None:
    monkeypatch.setattr(narrowing, "BUDGET", 0.0)
    monkeypatch.setattr(evaluate, "BATCH_SIZE", 1)
    store = Store(())
    giant, modest = TENANTS[:2]
    store.write(giant, [for_fraud(large(giant, number)) for number in range(50)])
    store.write(modest, [deny(modest, reasons=("fraud",))])
    counted = over_budget() or 0
    rules = store.renew(NarrowingRules())
    assert excluded(rules) == {giant}
    assert over_budget() == counted + 1
    assert len(prepared) < 50
    assert valid_until(verdict_of(rules), [rules.rules], NOON) is None
    again = store.renew(rules)
    assert over_budget() == counted + 1
    assert excluded(again) == {giant}


def test_tenant_whose_rules_are_within_the_budget_decides_by_them() -> None:
    store = Store(())
    giant = TENANTS[0]
    store.write(giant, [for_fraud(large(giant, number)) for number in range(20)])
    assert excluded(store.renew(NarrowingRules())) == set()


def test_unreadable_rule_of_a_tenant_excludes_nobody_else_in_its_group() -> None:
    store = Store(TENANTS)
    for tenant in TENANTS:
        store.write(tenant, [deny(tenant, reasons=("fraud",))])
    broken = TENANTS[9]
    store.write(broken, [replace(deny(broken), rule=None)])
    assert excluded(store.renew(NarrowingRules())) == {broken}


def test_rule_has_one_condition_in_these_tests() -> None:
    assert evaluate.count_all_conditions([deny(TENANTS[0])]) == len(RULE.surfaces) == 1


def test_tenants_that_are_too_large_deny_and_none_of_their_rules_is_loaded() -> None:
    store = Store(TENANTS[:4])
    for tenant in TENANTS[:4]:
        store.write(tenant, [for_fraud(deny(tenant))])
    giant = TENANTS[3]
    fitting = dict.fromkeys(TENANTS[:3], 1)
    before = REGISTRY.get_sample_value("sightline_rules_over_budget_total") or 0.0
    rules = NarrowingRules().renew(fitting, store.load, inf, frozenset({giant}))
    again = rules.renew(fitting, store.load, inf, frozenset({giant}))
    assert store.loaded == [set(TENANTS[:3])]
    for each in (rules, again):
        assert excluded(each) == {giant}
        assert [candidate.tenant_id for candidate in each.rules.over_budget] == [giant]
        assert not each.rules.pending
    assert REGISTRY.get_sample_value("sightline_rules_over_budget_total") == before + 1
    back = again.renew({**fitting, giant: 2}, store.load, inf)
    assert excluded(back) == frozenset()
    assert store.loaded == [set(TENANTS[:3]), {giant}]
