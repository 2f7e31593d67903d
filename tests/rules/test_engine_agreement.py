"""The engine and the plain evaluator say the same of whatever is drawn, and for as long as the
engine says that it holds."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.rules.draws import TENANTS, Question, candidates, questions
from tests.rules.plain import Outcome, judge_plainly, outcome_of
from webapp.rules.engine import Candidate, judge, lasting, prepare

ACME, *_ = TENANTS
MOMENT = timedelta(microseconds=1)
LAST = datetime(2100, 1, 1, tzinfo=UTC)

ours = candidates([None], 1)
theirs = candidates(list(TENANTS), 6)
of_acme = candidates([ACME], 6)


def thoroughly(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@thoroughly(2500)
@given(ours, theirs, st.lists(questions, min_size=1, max_size=4))
def test_both_say_the_same_of_a_look(
    platform: list[Candidate], tenants: list[Candidate], asked: list[Question]
) -> None:
    for everywhere in (True, False):
        narrowing = [c for c in tenants if everywhere or c.tenant_id == ACME]
        sets = prepare(platform), prepare(narrowing)
        for question in asked:
            verdict = judge(
                *sets, question.look, question.at, everywhere=everywhere, covers=question.cover
            )
            expected = _expected(platform, narrowing, question, everywhere)
            assert outcome_of(verdict) == expected
            event(f"{verdict.ruling}, {'everywhere' if everywhere else 'at one tenant'}")


@thoroughly(1500)
@given(ours, theirs, questions, st.booleans(), st.floats(0, 1))
def test_a_verdict_holds_for_as_long_as_it_says(
    platform: list[Candidate],
    tenants: list[Candidate],
    question: Question,
    everywhere: bool,
    part: float,
) -> None:
    narrowing = [c for c in tenants if everywhere or c.tenant_id == ACME]
    sets = prepare(platform), prepare(narrowing)
    verdict = judge(*sets, question.look, question.at, everywhere=everywhere, covers=question.cover)
    until = lasting(verdict, sets, question.at)
    event("for good" if until is None else "for a while")
    end = LAST if until is None else until
    assert end > question.at
    for moment in (question.at, question.at + (end - question.at) * part, end - MOMENT):
        later = replace(question, at=min(max(moment, question.at), end - MOMENT))
        assert _expected(platform, narrowing, later, everywhere) == outcome_of(verdict)


def _expected(
    platform: list[Candidate], narrowing: list[Candidate], question: Question, everywhere: bool
) -> Outcome:
    return judge_plainly(
        platform,
        narrowing,
        question.look,
        question.at,
        everywhere=everywhere,
        covers=question.cover,
    )
