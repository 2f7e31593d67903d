"""Replays of past accesses: deciding them in classes gives the same as deciding each alone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.rules.engine.questions import ACCESS, ACME, GLOBEX, NOON, RULE
from tests.rules.engine.strategies import Question, candidates, questions
from webapp.rules.engine.evaluate import (
    NO_RULES,
    Candidate,
    GrantMatch,
    RuleSet,
    decide,
    prepare,
)
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.rule import Rule, surfaces_covering
from webapp.rules.simulation.history import HistoryPage, PastAccess
from webapp.rules.simulation.replay import (
    NAMED_ACCESSES,
    NAMED_ACTORS,
    Budget,
    Proposal,
    Replay,
    replay,
)
from webapp.rules.simulation.request_classes import RequestClasses

LATER = datetime(2100, 1, 1, tzinfo=UTC)
DRAFT = replace(RULE, effect="deny", name="draft")
LET_ALL = Candidate(UUID(int=50), None, replace(RULE, id=UUID(int=50)))

thoroughly = settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def access(number: int = 0, tenant_id: UUID | None = None, **fields: Any) -> PastAccess:
    """A past access to a tenant, or to all tenants."""
    request = replace(ACCESS, **fields)
    at = NOON - timedelta(minutes=number)
    return PastAccess(UUID(int=number), at, request, tenant_id is None, tenant_id, approved=False)


@dataclass(frozen=True)
class RulesInMemory:
    """Reads rules as `webapp.rules.rule_sets` does."""

    rules: tuple[Candidate, ...]
    read: list[UUID | None] = field(default_factory=list)
    """Whose rules were read."""

    def expect(self, accesses: Sequence[PastAccess]) -> None: ...

    def __call__(self, tenant_id: UUID | None, surface: str) -> RuleSet:
        self.read.append(tenant_id)
        covering = set(surfaces_covering(surface))
        return prepare(
            c
            for c in self.rules
            if c.tenant_id == tenant_id
            and (tenant_id is None or c.rule is None or c.rule.effect != "allow")
            and (c.rule is None or covering & set(c.rule.surfaces))
        )


def read_from(*rules: Candidate) -> RulesInMemory:
    return RulesInMemory(rules)


SINCE = NOON - timedelta(days=30)
ENOUGH = Budget(events=1000, seconds=60.0)


def pages(accesses: Sequence[PastAccess], size: int = 1000) -> Iterator[HistoryPage]:
    for start in range(0, len(accesses), size):
        some = accesses[start : start + size]
        yield HistoryPage(some, len(some), some[-1].at)


def replayed(
    accesses: Sequence[PastAccess], proposal: Proposal, read: RulesInMemory, budget: Budget = ENOUGH
) -> Replay:
    return replay(pages(accesses, 2), proposal, read, SINCE, budget)


@pytest.mark.slow
@thoroughly
@given(candidates([None], 1), candidates([ACME], 6), questions, questions)
def test_requests_of_one_class_are_decided_alike(
    platform: list[Candidate], tenant: list[Candidate], asked: Question, other: Question
) -> None:
    sets = prepare(platform), prepare(tenant)
    classes = RequestClasses(c.rule for s in sets for c in s.candidates if c.rule)
    first = decide(*sets, asked.access, asked.at, everywhere=False)
    first_class = classes.class_of(asked.access, asked.at)
    for access, at in _a_little_different(asked, other):
        if classes.class_of(access, at) == first_class:
            verdict = decide(*sets, access, at, everywhere=False)
            event(f"{verdict.ruling} again")
            assert verdict == first


def _a_little_different(
    one: Question, other: Question
) -> Iterator[tuple[AuthorizationRequest, datetime]]:
    """Requests that differ from the first in one attribute or in the time."""
    for name in ("email", "roles", "mfa", "reason", "ticket", "ip"):
        yield replace(one.access, **{name: getattr(other.access, name)}), one.at
    yield one.access, other.at
    for minutes in (-1441, -1440, -60, -1, 1, 60, 480, 1440):
        yield one.access, one.at + timedelta(minutes=minutes)
    for microseconds in (-1, 1):
        yield one.access, one.at + timedelta(microseconds=microseconds)


@pytest.mark.slow
@thoroughly
@given(
    candidates([None], 1),
    candidates([ACME, GLOBEX], 6),
    candidates([None, ACME], 20),
    st.booleans(),
    st.lists(st.tuples(questions, st.sampled_from([None, ACME, GLOBEX]), st.booleans())),
)
def test_replay_agrees_with_deciding_each_access_alone(
    platform: list[Candidate],
    tenants: list[Candidate],
    drafts: list[Candidate],
    replacing: bool,
    asked: list[tuple[Question, UUID | None, bool]],
) -> None:
    readable = [c for c in drafts if c.rule is not None]
    if not readable:
        return
    draft = readable[0]
    replaced = next((c.id for c in (*platform, *tenants) if c.tenant_id == draft.tenant_id), None)
    proposal = Proposal(draft.tenant_id, replaced if replacing else None, draft.rule)
    accesses = [
        PastAccess(UUID(int=n), q.at, q.access, tenant_id is None, tenant_id, approved)
        for n, (q, tenant_id, approved) in enumerate(asked)
    ]
    before = [*platform, *tenants]
    after = [*(c for c in before if c.id != proposal.replaces), draft]

    expected = []
    for past in accesses:
        outcomes = [_outcome(past, rules, draft.tenant_id) for rules in (before, after)]
        if outcomes[0] != outcomes[1]:
            expected.append((past.id, *outcomes))
    found = replayed(accesses, proposal, read_from(*before))
    assert [(c.id, c.before, c.after) for c in found.accesses] == expected
    assert (found.examined, found.changed) == (len(accesses), len(expected))
    assert {(s.before, s.after): s.accesses for s in found.shifts} == Counter(
        outcome[1:] for outcome in expected
    )


def _outcome(past: PastAccess, rules: list[Candidate], owner_id: UUID | None) -> str:
    read = read_from(*rules)
    tenant_id = owner_id if past.everywhere else past.tenant_id
    tenants = NO_RULES if tenant_id is None else read(tenant_id, past.request.surface)
    verdict = decide(
        read(None, past.request.surface),
        tenants,
        past.request,
        past.at,
        everywhere=past.everywhere,
        find_grant=lambda _: GrantMatch(UUID(int=7), LATER) if past.approved else None,
    )
    if past.everywhere and owner_id is not None and verdict.ruling == "allowed":
        return "excluded" if owner_id in verdict.excluded.tenants else "included"
    return verdict.ruling


def test_replay_names_the_changed_accesses_and_their_actors() -> None:
    accesses = [
        access(1, email="sue@example.org"),
        access(2, ACME, email="tom@example.org"),
        access(3, GLOBEX, email="tom@example.org"),
        access(4, GLOBEX, surface="billing.invoices.show"),
    ]
    draft = replace(DRAFT, surfaces=("admin.*",))
    found = replayed(accesses, Proposal(None, None, draft), read_from(LET_ALL))
    assert (found.examined, found.changed, found.truncated) == (4, 3, False)
    assert found.covered_from == SINCE
    assert [(s.before, s.after, s.accesses) for s in found.shifts] == [("allowed", "denied", 3)]
    assert [(a.actor, a.accesses) for a in found.actors] == [
        ("tom@example.org", 2),
        ("sue@example.org", 1),
    ]
    first = found.accesses[0]
    assert [c.id.int for c in found.accesses] == [1, 2, 3]
    assert (first.actor, first.occurred_at) == ("sue@example.org", accesses[0].at)
    assert (first.surface, first.reason) == ("admin.rules.list", "incident")


def test_tenants_deny_draft_excludes_it_from_accesses_to_all() -> None:
    proposal = Proposal(ACME, None, replace(DRAFT, tenant="acme"))
    found = replayed([access(1), access(2, ACME)], proposal, read_from(LET_ALL))
    assert [(c.before, c.after) for c in found.accesses] == [
        ("included", "excluded"),
        ("allowed", "denied"),
    ]


def test_access_with_a_past_grant_passes_a_draft_that_requires_approval() -> None:
    draft: Rule = replace(DRAFT, effect="require_approval")
    approved = replace(access(1), approved=True)
    found = replayed([approved, access(2)], Proposal(None, None, draft), read_from(LET_ALL))
    assert [(c.id.int, c.after) for c in found.accesses] == [(2, "approval_required")]


def test_removal_of_the_only_allow_rule_denies_the_access() -> None:
    proposal = Proposal(None, LET_ALL.id, None)
    found = replayed([access(1)], proposal, read_from(LET_ALL))
    assert [(c.before, c.after) for c in found.accesses] == [("allowed", "denied")]


def test_replay_limits_the_actors_and_accesses_that_it_names() -> None:
    accesses = [access(number, email=f"{number}@example.org") for number in range(150)]
    found = replayed(accesses, Proposal(None, None, DRAFT), read_from(LET_ALL))
    assert found.changed == 150
    assert (len(found.actors), len(found.accesses)) == (NAMED_ACTORS, NAMED_ACCESSES)


def test_replay_beyond_its_events_covers_the_newest_pages_and_says_since_when() -> None:
    accesses = [access(number) for number in range(7)]
    proposal = Proposal(None, None, DRAFT)
    found = replayed(accesses, proposal, read_from(LET_ALL), Budget(events=3, seconds=60.0))
    assert (found.examined, found.changed, found.truncated) == (4, 4, True)
    assert found.covered_from == accesses[3].at
    whole = replayed(accesses, proposal, read_from(LET_ALL), Budget(events=8, seconds=60.0))
    assert (whole.examined, whole.truncated, whole.covered_from) == (7, False, SINCE)


def test_replay_without_time_left_says_what_it_covered() -> None:
    proposal = Proposal(None, None, DRAFT)
    found = replayed([access(1)], proposal, read_from(LET_ALL), Budget(events=10, seconds=0.0))
    assert (found.examined, found.truncated) == (0, True)
    assert found.covered_from > access(1).at


def test_replay_reads_nobodys_rules_on_a_surface_that_the_draft_does_not_cover() -> None:
    rules = read_from(LET_ALL)
    elsewhere = Proposal(None, None, replace(DRAFT, surfaces=("billing.*",)))
    replayed([access(1, ACME), access(2, GLOBEX)], elsewhere, rules)
    assert rules.read == [None]
    rules.read.clear()
    replayed([access(1, ACME), access(2, GLOBEX)], Proposal(ACME, None, DRAFT), rules)
    assert set(rules.read) == {None, ACME}
