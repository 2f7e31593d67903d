"""Until when a verdict holds: no later than anything that it rests on, at any drawn moment."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.rules.engine.questions import (
    ACCESS,
    ACME,
    ALLOW,
    ASK,
    DENY,
    EVERY_DAY,
    GRANT,
    NOON,
    rule,
)
from tests.rules.engine.reference import decide_by_reference, outcome_of
from tests.rules.engine.strategies import Question, candidates, questions, window_of
from tests.rules.engine.strategies import dice as dice_of
from tests.rules.engine.test_engine_agreement import thoroughly
from webapp.rules.engine.evaluate import Candidate, RuleSet, Verdict, decide, prepare
from webapp.rules.engine.until import DAY, holds_until, is_open, next_change
from webapp.rules.rule import Subjects, Window

MINUTE, MOMENT = timedelta(minutes=1), timedelta(microseconds=1)

platform_rules, tenant_rules = candidates([None], 1), candidates([ACME], 6)


def until(*rules: Candidate, at: datetime = NOON, granted: bool = False) -> datetime | None:
    """Until when the verdict on an access to a tenant holds, which is allowed."""
    platform = prepare(candidate for candidate in rules if candidate.tenant_id is None)
    tenant = prepare(candidate for candidate in rules if candidate.tenant_id is not None)
    question = Question(ACCESS, at, {r.id: GRANT for r in rules if granted})
    verdict = _decide(question, [platform, tenant], everywhere=False)
    assert verdict.ruling == "allowed"
    return holds_until(verdict, [platform, tenant], ACCESS, at)


def daily(begins: str, ends: str, tz: str = "UTC") -> Window:
    return Window(EVERY_DAY, begins, ends, tz)


def test_verdict_on_rules_without_an_end_holds_for_good() -> None:
    assert until(rule(ALLOW)) is None


def test_verdict_ends_with_the_first_rule_that_ends() -> None:
    ends = NOON + 5 * MINUTE
    assert until(rule(ALLOW, 1, ends_at=ends), rule(ALLOW, 2, ends_at=ends + MINUTE)) == ends


def test_verdict_ends_when_the_window_closes() -> None:
    assert until(rule(ALLOW, windows=(daily("09:00", "12:02"),))) == NOON + 2 * MINUTE
    overnight = rule(ALLOW, windows=(daily("11:00", "01:30"),))
    assert until(overnight) == NOON + timedelta(hours=13, minutes=30)
    in_kathmandu = rule(ALLOW, windows=(daily("09:00", "17:50", "Asia/Kathmandu"),))
    assert until(in_kathmandu) == NOON + 5 * MINUTE
    several = (daily("09:00", "12:02"), daily("10:00", "12:07"), daily("13:00", "14:00"))
    assert until(rule(ALLOW, windows=several)) == NOON + 7 * MINUTE


def test_verdict_ends_with_its_grant() -> None:
    assert until(rule(ALLOW, 1), rule(ASK, 2, of=ACME), granted=True) == GRANT.ends_at


@pytest.mark.parametrize("effect", [DENY, ASK])
@pytest.mark.parametrize("owner", [None, ACME], ids=["the platform's", "the tenant's"])
def test_verdict_ends_when_a_rule_begins_that_may_refuse(effect: str, owner: None) -> None:
    starts = rule(effect, 2, of=owner, starts_at=NOON + 3 * MINUTE)
    assert until(rule(ALLOW, 1), starts) == NOON + 3 * MINUTE
    opens = rule(effect, 2, of=owner, windows=(daily("12:04", "13:00"),))
    assert until(rule(ALLOW, 1), opens) == NOON + 4 * MINUTE
    ended = rule(effect, 2, of=owner, windows=(daily("12:04", "13:00"),), ends_at=NOON)
    assert until(rule(ALLOW, 1), ended) is None


def test_verdict_does_not_end_for_a_rule_that_does_not_concern_it() -> None:
    soon: dict[str, Any] = {"windows": (daily("12:04", "13:00"),)}
    others = rule(DENY, 2, subjects=Subjects(("auditor",), ("ann@example.org",)), **soon)
    otherwise = rule(DENY, 3, reasons=("fraud",), **soon)
    assert until(rule(ALLOW, 1), others, otherwise, rule(ALLOW, 4, **soon)) is None
    by_name = rule(DENY, 5, subjects=Subjects(("auditor",), ("SUE@example.org",)), **soon)
    assert until(rule(ALLOW, 1), by_name) == NOON + 4 * MINUTE


def test_more_windows_than_are_looked_at_count_as_opening_at_once() -> None:
    times = [f"{n // 60:02}:{n % 60:02}" for n in range(14 * 60, 23 * 60)]
    windows = [daily(begins, time) for begins in ("13:00", "13:01") for time in times]
    refusing = [
        rule(DENY, n, of=ACME, windows=tuple(windows[n * 20 : n * 20 + 20]))
        for n in range(len(windows) // 20)
    ]
    assert until(rule(ALLOW, 999), *refusing, at=NOON + MOMENT) == NOON + MINUTE


def _decide(question: Question, sets: list[RuleSet], *, everywhere: bool) -> Verdict:
    platform, tenants = sets
    return decide(
        platform,
        tenants,
        question.access,
        question.at,
        everywhere=everywhere,
        find_grant=question.find_grant,
    )


@pytest.mark.slow
@thoroughly(1000)
@given(platform_rules, tenant_rules, questions, st.booleans(), st.floats(0, 1))
def test_access_stays_allowed_until_then(
    platform: list[Candidate],
    tenant: list[Candidate],
    question: Question,
    everywhere: bool,
    part: float,
) -> None:
    """And no part of the verdict ends before: neither a rule that allows, nor a grant."""
    sets = [prepare(platform), prepare(tenant)]
    verdict = _decide(question, sets, everywhere=everywhere)
    event(verdict.ruling)
    if verdict.ruling != "allowed":
        return
    end = holds_until(verdict, sets, question.access, question.at)
    event("for good" if end is None else "for a while")
    end = min(end or question.at + DAY, question.at + DAY)
    assert question.at < end
    used = [g for g in question.grants.values() if g.grant_id in verdict.grants]
    for ends in [c.rule.ends_at for c in verdict.decided_by if c.rule] + [g.ends_at for g in used]:
        assert ends is None or ends >= end
    for moment in (question.at + (end - question.at) * part, end - MOMENT):
        later = Question(
            question.access, min(max(question.at, moment), end - MOMENT), question.grants
        )
        expected = decide_by_reference(
            platform,
            tenant,
            later.access,
            later.at,
            everywhere=everywhere,
            find_grant=later.find_grant,
        )
        assert expected.ruling == "allowed"
        assert expected.excluded <= outcome_of(verdict).excluded


@pytest.mark.slow
@thoroughly(1000)
@given(
    dice_of(8).map(window_of),
    st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - a bound
)
def test_window_changes_at_that_moment_and_not_before(window: Window, at: datetime) -> None:
    before, change = is_open(window, at), next_change(window, at)
    minute = at.replace(second=0, microsecond=0)
    for n in range(1, 24 * 60 + 1):
        if is_open(window, minute + n * MINUTE) != before:
            assert change == minute + n * MINUTE
            return
    assert change is None
