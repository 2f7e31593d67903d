"""Agreement of the engine with the reference, for any drawn rules and accesses, and over time."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from math import inf

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.rules.engine.questions import ACCESS, EVERY_DAY, NOON, RULE
from tests.rules.engine.reference import (
    ZONES,
    ReferenceOutcome,
    decide_by_reference,
    outcome_of,
    says,
)
from tests.rules.engine.strategies import TENANTS, Question, candidates, questions
from webapp.rules.engine import cedar
from webapp.rules.engine.evaluate import (
    Candidate,
    RuleSet,
    combine,
    decide,
    prepare,
    valid_until,
)
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.narrowing import prepare_by_tenant
from webapp.rules.rule import Day, Rule, Window

pytestmark = pytest.mark.slow

ACME, *_ = TENANTS
MOMENT = timedelta(microseconds=1)
LAST = datetime(2100, 1, 1, tzinfo=UTC)

platform_rules = candidates([None], 1)
tenant_rules = candidates(list(TENANTS), 6)


networks = st.one_of(
    st.builds(
        lambda address, length: ip_network((address, length), strict=False),
        st.ip_addresses(v=4),
        st.integers(0, 32),
    ),
    st.builds(
        lambda address, length: ip_network((address, length), strict=False),
        st.ip_addresses(v=6),
        st.integers(0, 128),
    ),
)


Way = Callable[[list[Candidate]], RuleSet]


def prepare_one_by_one(rules: list[Candidate]) -> RuleSet:
    return combine(prepare([candidate]) for candidate in rules)


def prepare_in_groups(rules: list[Candidate]) -> RuleSet:
    """Prepare as accesses to all tenants do. The platform's rules are in batches."""
    platform = [candidate for candidate in rules if candidate.tenant_id is None]
    return combine([prepare(platform, inf), prepare_by_tenant(rules)])


WAYS: tuple[Way, ...] = (prepare, prepare_one_by_one, prepare_in_groups)
"""The ways to prepare rules, which all decide the same."""


def thoroughly(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@thoroughly(2000)
@given(
    platform_rules, tenant_rules, st.lists(questions, min_size=4, max_size=4), st.sampled_from(WAYS)
)
def test_engine_decides_any_access_as_the_reference_does(
    platform: list[Candidate], tenants: list[Candidate], asked: list[Question], way: Way
) -> None:
    for everywhere in (True, False):
        narrowing = [c for c in tenants if everywhere or c.tenant_id == ACME]
        sets = way(platform), way(narrowing)
        for question in asked:
            verdict = decide(
                *sets,
                question.access,
                question.at,
                everywhere=everywhere,
                find_grant=question.find_grant,
            )
            expected = _expected(platform, narrowing, question, everywhere)
            assert outcome_of(verdict) == expected
            event(f"{verdict.ruling}, {'everywhere' if everywhere else 'at one tenant'}")


@thoroughly(1000)
@given(platform_rules, tenant_rules, questions, st.booleans(), st.floats(0, 1))
def test_verdict_stays_right_until_it_expires(
    platform: list[Candidate],
    tenants: list[Candidate],
    question: Question,
    everywhere: bool,
    part: float,
) -> None:
    narrowing = [c for c in tenants if everywhere or c.tenant_id == ACME]
    sets = prepare(platform), prepare(narrowing)
    verdict = decide(
        *sets, question.access, question.at, everywhere=everywhere, find_grant=question.find_grant
    )
    until = valid_until(verdict, sets, question.at)
    event("for good" if until is None else "for a while")
    end = LAST if until is None else until
    assert end > question.at
    for moment in (question.at, question.at + (end - question.at) * part, end - MOMENT):
        later = replace(question, at=min(max(moment, question.at), end - MOMENT))
        assert _expected(platform, narrowing, later, everywhere) == outcome_of(verdict)


@thoroughly(500)
@given(networks, st.integers(-2, 2), st.ip_addresses())
def test_engine_matches_any_network_as_the_reference_does(
    network: IPv4Network | IPv6Network, offset: int, other: IPv4Address | IPv6Address
) -> None:
    """At the network's edges and at any other address."""
    rule = replace(RULE, networks=(str(network),))
    cedar.check(rule)
    edges = (int(network.network_address) + offset, int(network.broadcast_address) + offset)
    beside = [type(other)(edge) for edge in edges if 0 <= edge < 2**other.max_prefixlen]
    accesses = [replace(ACCESS, ip=str(address)) for address in (other, *beside)]
    assert _allowed(rule, [(access, NOON) for access in accesses]) == [
        says(rule, access, NOON) == "allow" for access in accesses
    ]


@thoroughly(500)
@given(
    st.sampled_from(sorted(ZONES)),
    st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - a bound
    st.sampled_from(EVERY_DAY),
    st.times(),
    st.times(),
)
def test_engine_matches_any_window_as_the_reference_does(
    zone: str, at: datetime, day: Day, begins: time, ends: time
) -> None:
    window = Window((day,), f"{begins:%H:%M}", f"{ends:%H:%M}", zone)
    rule = replace(RULE, windows=(window,))
    cedar.check(rule)
    moments = [at + timedelta(hours=hours) for hours in range(0, 168, 13)]
    assert _allowed(rule, [(ACCESS, moment) for moment in moments]) == [
        says(rule, ACCESS, moment) == "allow" for moment in moments
    ]


def _allowed(rule: Rule, asked: list[tuple[AuthorizationRequest, datetime]]) -> list[bool]:
    rules = prepare([Candidate(rule.id, None, rule)])
    return [rules.evaluate(access, at).allowed for access, at in asked]


def _expected(
    platform: list[Candidate], narrowing: list[Candidate], question: Question, everywhere: bool
) -> ReferenceOutcome:
    return decide_by_reference(
        platform,
        narrowing,
        question.access,
        question.at,
        everywhere=everywhere,
        find_grant=question.find_grant,
    )
