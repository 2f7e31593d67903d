"""Replays: past accesses decided without a proposed rule and with it, and the differences."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import thread_time
from typing import Literal, Protocol
from uuid import UUID

from webapp.rules.engine.evaluate import (
    NO_RULES,
    Candidate,
    FindGrant,
    GrantMatch,
    RuleSet,
    Verdict,
    combine,
    decide,
    find_no_grant,
    prepare,
)
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.rule import Rule, surfaces_covering
from webapp.rules.simulation.history import HistoryPage, PastAccess
from webapp.rules.simulation.request_classes import RequestClasses

ReplayOutcome = Literal["allowed", "denied", "approval_required", "included", "excluded"]
"""How an access comes out.

`included` and `excluded` are for an access to all tenants, if a tenant's rule is proposed: they say
whether that tenant is left out.
"""

DRAFT: UUID = UUID(int=0)
"""The id of a draft that replaces no rule."""

NAMED_ACTORS = 20
NAMED_ACCESSES = 100

_NONE = (NO_RULES, NO_RULES)
_FOREVER = datetime.max.replace(tzinfo=UTC)


class ReadRules(Protocol):
    """Reads the rules of a tenant, or of the platform, that cover a surface."""

    def __call__(self, tenant_id: UUID | None, surface: str) -> RuleSet: ...

    def expect(self, accesses: Sequence[PastAccess]) -> None:
        """Say which accesses are decided next, so that their tenants' rules are read together."""


@dataclass(frozen=True)
class Budget:
    """What a replay may take. What is left then is not examined."""

    events: int
    """Events looked at, whether rules decided them or not."""
    seconds: float
    """CPU time of its thread."""


@dataclass(frozen=True)
class Proposal:
    """A proposed change: a new rule, a rule in the place of another, or the removal of a rule."""

    tenant_id: UUID | None
    """The owner of the rule; `None` for the platform."""
    replaces: UUID | None
    rule: Rule | None
    """`None` if the rule is to be removed."""

    def among(self, rules: RuleSet, surface: str) -> RuleSet:
        """Apply the change to the owner's rules on a surface.

        Returns the same set if the change makes no difference there.
        """
        others = rules.without(self.replaces)
        if self.rule is not None and self._has_effect(self.rule, surface):
            draft = prepare([Candidate(self.rule.id, self.tenant_id, self.rule)])
            return combine([others, draft])
        return others

    def _has_effect(self, rule: Rule, surface: str) -> bool:
        """Whether the rule can decide on a surface. A tenant's rule that allows never does."""
        narrows = self.tenant_id is None or rule.effect != "allow"
        covers = not set(surfaces_covering(surface)).isdisjoint(rule.surfaces)
        return rule.enabled and narrows and covers


@dataclass(frozen=True)
class Changed:
    """An access that would have come out differently."""

    id: UUID
    """The id of its audit event."""
    occurred_at: datetime
    actor: str
    surface: str
    reason: str
    before: ReplayOutcome
    after: ReplayOutcome


@dataclass(frozen=True)
class Shift:
    """How many accesses change from one outcome to another."""

    before: ReplayOutcome
    after: ReplayOutcome
    accesses: int


@dataclass(frozen=True)
class Affected:
    """How many accesses of one actor change."""

    actor: str
    accesses: int


@dataclass(frozen=True)
class Replay:
    """What a proposal would have changed about past accesses."""

    examined: int
    changed: int
    truncated: bool
    """Whether there were more accesses than the budget allowed. Only the newest were examined."""
    covered_from: datetime
    """The accesses from this moment on were examined."""
    shifts: tuple[Shift, ...]
    actors: tuple[Affected, ...]
    """The actors with the most changed accesses."""
    accesses: tuple[Changed, ...]
    """The newest changed accesses."""


@dataclass(frozen=True)
class ApplicableRules:
    """The rules that decide accesses to one surface and one target."""

    platform: RuleSet
    tenants: RuleSet

    def decide(
        self,
        request: AuthorizationRequest,
        at: datetime,
        *,
        everywhere: bool,
        find_grant: FindGrant = find_no_grant,
    ) -> Verdict:
        return decide(
            self.platform, self.tenants, request, at, everywhere=everywhere, find_grant=find_grant
        )

    def changed_by(self, proposal: Proposal, surface: str) -> "ApplicableRules":
        """Apply a proposal. Returns the same value if it makes no difference.

        A tenant's proposal requires that `tenants` holds this tenant's rules.
        """
        is_platform = proposal.tenant_id is None
        before = self.platform if is_platform else self.tenants
        after = proposal.among(before, surface)
        if after is before:
            return self
        if is_platform:
            return ApplicableRules(after, self.tenants)
        return ApplicableRules(self.platform, after)


def replay(
    history: Iterable[HistoryPage],
    proposal: Proposal,
    read: ReadRules,
    since: datetime,
    budget: Budget,
) -> Replay:
    """Decide the accesses since a moment without a proposal and with it, the newest first."""
    evaluators = _Evaluators(proposal, read)
    findings = _Findings()
    began, events = thread_time(), 0
    covered_from = datetime.now(UTC)
    for page in history:
        if events >= budget.events:
            return findings.conclude(covered_from, truncated=True)
        read.expect(page.accesses)
        for access in page.accesses:
            if thread_time() - began > budget.seconds:
                return findings.conclude(covered_from, truncated=True)
            findings.examine(access, evaluators)
            covered_from = access.at
        events, covered_from = events + page.events, page.reaches
    return findings.conclude(since, truncated=False)


class _Findings:
    """What a replay has found so far."""

    def __init__(self) -> None:
        self._shifts: Counter[tuple[ReplayOutcome, ReplayOutcome]] = Counter()
        self._actors: Counter[str] = Counter()
        self._named: list[Changed] = []
        self._examined = 0

    def examine(self, access: PastAccess, evaluators: "_Evaluators") -> None:
        self._examined += 1
        evaluator = evaluators.find(access)
        if evaluator is None:
            return
        before, after = evaluator.compare(access)
        if before == after:
            return
        self._shifts[before, after] += 1
        self._actors[access.request.email] += 1
        if len(self._named) < NAMED_ACCESSES:
            self._named.append(_changed(access, before, after))

    def conclude(self, covered_from: datetime, *, truncated: bool) -> Replay:
        shifts, actors = self._shifts, self._actors
        return Replay(
            examined=self._examined,
            changed=shifts.total(),
            truncated=truncated,
            covered_from=covered_from,
            shifts=tuple(Shift(*pair, accesses) for pair, accesses in shifts.most_common()),
            actors=tuple(Affected(*counted) for counted in actors.most_common(NAMED_ACTORS)),
            accesses=tuple(self._named),
        )


class _Evaluators:
    """One evaluator for each surface and target on which the proposal may make a difference.

    Tenants without rules of their own share one.
    """

    def __init__(self, proposal: Proposal, read: ReadRules) -> None:
        self._proposal = proposal
        self._read = read
        self._sets: dict[tuple[UUID | None, str], tuple[RuleSet, RuleSet]] = {}
        self._evaluators: dict[Hashable, _Evaluator] = {}

    def find(self, access: PastAccess) -> "_Evaluator | None":
        """The evaluator for an access; `None` if the proposal makes no difference to it.

        For an access to all tenants only two owners' rules can make a difference: the platform's,
        and those of the tenant whose rule is proposed.
        """
        surface, tenant_id = access.request.surface, access.tenant_id
        if access.everywhere:
            tenant_id = self._proposal.tenant_id
        owner_id = self._proposal.tenant_id
        if owner_id not in (None, tenant_id):
            return None
        # The owner's rules first: where they stay the same, nobody else's are read.
        own = self._before_and_after(owner_id, surface)
        if own[0] is own[1]:
            return None
        platform = self._before_and_after(None, surface)
        tenant = _NONE if tenant_id is None else self._before_and_after(tenant_id, surface)
        key = (surface, access.everywhere, id(tenant[0]))
        if key not in self._evaluators:
            before = ApplicableRules(platform[0], tenant[0])
            after = ApplicableRules(platform[1], tenant[1])
            self._evaluators[key] = _Evaluator(self._proposal.tenant_id, before, after)
        return self._evaluators[key]

    def _before_and_after(self, tenant_id: UUID | None, surface: str) -> tuple[RuleSet, RuleSet]:
        found = self._sets.get((tenant_id, surface))
        if found is None:
            before = self._read(tenant_id, surface)
            is_owner = tenant_id == self._proposal.tenant_id
            after = self._proposal.among(before, surface) if is_owner else before
            found = self._sets[tenant_id, surface] = before, after
        return found


class _Evaluator:
    """Decides the accesses to one surface and target, once for each class of requests."""

    def __init__(
        self, owner_id: UUID | None, before: ApplicableRules, after: ApplicableRules
    ) -> None:
        every = (before.platform, before.tenants, after.platform, after.tenants)
        self._owner_id, self._before, self._after = owner_id, before, after
        self._classes = RequestClasses(
            c.rule for rules in every for c in rules.candidates if c.rule is not None
        )
        self._known: dict[Hashable, tuple[ReplayOutcome, ReplayOutcome]] = {}

    def compare(self, access: PastAccess) -> tuple[ReplayOutcome, ReplayOutcome]:
        request_class = (access.approved, self._classes.class_of(access.request, access.at))
        found = self._known.get(request_class)
        if found is None:
            found = self._decide(self._before, access), self._decide(self._after, access)
            self._known[request_class] = found
        return found

    def _decide(self, rules: ApplicableRules, access: PastAccess) -> ReplayOutcome:
        find_grant = _find_past_grant if access.approved else find_no_grant
        verdict = rules.decide(
            access.request, access.at, everywhere=access.everywhere, find_grant=find_grant
        )
        if not access.everywhere or self._owner_id is None or verdict.ruling != "allowed":
            return verdict.ruling
        return "excluded" if self._owner_id in verdict.excluded.tenants else "included"


def _find_past_grant(_: Candidate) -> GrantMatch:
    """A grant without an end, for an access that grants approved at the time."""
    return GrantMatch(DRAFT, _FOREVER)


def _changed(access: PastAccess, before: ReplayOutcome, after: ReplayOutcome) -> Changed:
    request = access.request
    return Changed(
        access.id, access.at, request.email, request.surface, request.reason, before, after
    )
