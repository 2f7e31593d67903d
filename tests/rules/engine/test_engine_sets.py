"""Sets of rules: combined, in batches, and without one of their rules."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from tests.rules.engine.questions import ACCESS, ACME, ALLOW, ASK, DENY, GLOBEX, NOON, rule
from webapp.rules.engine import evaluate
from webapp.rules.engine.evaluate import NO_RULES, RuleSet, combine, prepare


@pytest.fixture
def prepared() -> Iterator[list[int]]:
    """The number of rules in each batch that was prepared."""
    sizes = []
    unpatched = evaluate._prepare

    def note(drafts: list[Any]) -> RuleSet:
        sizes.append(len(drafts))
        return unpatched(drafts)

    with mock.patch.object(evaluate, "_prepare", note):
        yield sizes


def test_denial_in_one_set_beats_allowances_in_another() -> None:
    deny = rule(DENY, 11)
    found = combine([prepare([rule(ALLOW, 10)]), prepare([deny])]).evaluate(ACCESS, NOON)
    assert (found.allowed, found.denying, found.allowing) == (False, (deny,), ())


def test_required_approval_in_one_set_hides_allowances_in_another_until_it_is_given() -> None:
    allow, ask = rule(ALLOW, 10), rule(ASK, 11)
    rules = combine([prepare([allow]), prepare([ask])])
    before = rules.evaluate(ACCESS, NOON)
    assert (before.allowed, before.approving, before.allowing) == (False, (ask,), ())
    after = rules.evaluate(ACCESS, NOON, approved=True, granted=True)
    assert (after.allowed, after.approving, after.allowing) == (True, (), (allow, ask))


def test_no_sets_combined_are_no_rules() -> None:
    assert combine([]) == NO_RULES
    assert combine([NO_RULES, NO_RULES]) == NO_RULES


def test_set_without_a_rule_prepares_only_the_batch_of_that_rule(prepared: list[int]) -> None:
    rules = combine(
        prepare([rule(DENY, 10 * tenant.int + n, of=tenant) for n in range(3)])
        for tenant in (ACME, GLOBEX)
    )
    prepared.clear()
    gone = rules.candidates[0]
    others = rules.without(gone.id)
    assert prepared == [2]
    assert [c for c in rules.candidates if c != gone] == list(others.candidates)
    assert gone not in others.evaluate(ACCESS, NOON).denying


def test_set_without_a_rule_that_it_lacks_is_the_same_set() -> None:
    rules = prepare([rule(DENY, 10)])
    assert rules.without(rule(DENY, 11).id) is rules
    assert rules.without(None) is rules


def test_set_without_its_unreadable_rule_denies_no_more() -> None:
    broken = rule(DENY, 11, networks=("everywhere",))
    rules = prepare([rule(ALLOW, 10), broken])
    assert not rules.evaluate(ACCESS, NOON).allowed
    assert rules.without(broken.id).evaluate(ACCESS, NOON).allowed


def test_rules_that_share_their_texts_are_one_batch_however_many(prepared: list[int]) -> None:
    """Cedar reads a text once, so two hundred such rules cost little more than one."""
    prepare([rule(DENY, number, reasons=("fraud",)) for number in range(200)], budget=60)
    assert prepared == [200]


def test_rules_with_long_texts_are_split_into_batches(prepared: list[int]) -> None:
    with mock.patch.object(evaluate, "BATCH_SIZE", 5_000):
        rules = prepare([rule(DENY, number, ticket=f"T-{number}*") for number in range(40)], 60)
    assert len(prepared) > 2
    assert sum(prepared) == len(rules.candidates) == 40
    assert max(prepared) <= 5_000 // evaluate.LINK_SIZE


def test_disabled_rules_are_not_prepared(prepared: list[int]) -> None:
    rules = prepare([rule(DENY, 10, enabled=False), rule(ALLOW, 11)], budget=60)
    assert (prepared, rules.evaluate(ACCESS, NOON).allowed) == ([1], True)


def test_rules_over_the_budget_all_deny() -> None:
    rules = [rule(ALLOW, number, reasons=("fraud",)) for number in range(50)]
    with mock.patch.object(evaluate, "BATCH_SIZE", 1):
        over = prepare(rules, budget=0.0)
    assert over.over_budget == over.evaluate(ACCESS, NOON).denying == tuple(rules)
    assert over.batches == ()
