"""What a proposed rule would have changed: verdicts without it and with it, compared."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from webapp.rules.engine.evaluate import (
    NO_RULES,
    Candidate,
    FindGrant,
    GrantMatch,
    RuleSet,
    Verdict,
    decide,
    nothing_granted,
    prepare,
)
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.rule import Rule, surfaces_covering
from webapp.rules.simulation.history import PastAccess, RequestClasses

ReplayOutcome = Literal["allowed", "denied", "approval_required", "included", "excluded"]
"""Of an access to all tenants, where a tenant's rule is proposed: whether that tenant is left
out."""

DRAFT: UUID = UUID(int=0)
"""The id of a draft that replaces no rule."""

NAMED_ACTORS = 20
NAMED_ACCESSES = 100

_NONE = (NO_RULES, NO_RULES)
_FOREVER = datetime.max.replace(tzinfo=UTC)

ReadRules = Callable[[UUID | None, str], RuleSet]
"""The rules of a tenant, or of the platform, that cover a surface."""


@dataclass(frozen=True)
class Proposal:
    """A draft among the rules that there are, in the place of one of them, or one taken away."""

    tenant_id: UUID | None
    """Whose rule it is; `None` for the platform's."""
    replaces: UUID | None
    rule: Rule | None
    """`None` where the rule is to be removed."""

    def among(self, rules: RuleSet, surface: str) -> RuleSet:
        """These rules of its owner's as they would be; the same set where it makes no difference
        on this surface."""
        there = (*rules.candidates, *rules.unreadable)
        others = [candidate for candidate in there if candidate.id != self.replaces]
        if self.rule is not None and self._speaks(self.rule, surface):
            return prepare([*others, Candidate(self.rule.id, self.tenant_id, self.rule)])
        return prepare(others) if len(others) < len(there) else rules

    def _speaks(self, rule: Rule, surface: str) -> bool:
        """What a tenant allows changes nothing."""
        narrows = self.tenant_id is None or rule.effect != "allow"
        covers = not set(surfaces_covering(surface)).isdisjoint(rule.surfaces)
        return rule.enabled and narrows and covers


@dataclass(frozen=True)
class Changed:
    """An access that would have come out otherwise."""

    id: UUID
    """Its event's."""
    occurred_at: datetime
    actor: str
    surface: str
    reason: str
    before: ReplayOutcome
    after: ReplayOutcome


@dataclass(frozen=True)
class Shift:
    before: ReplayOutcome
    after: ReplayOutcome
    accesses: int


@dataclass(frozen=True)
class Affected:
    actor: str
    accesses: int


@dataclass(frozen=True)
class Replay:
    """What the proposal would have changed of the accesses of the past."""

    examined: int
    changed: int
    truncated: bool
    """There were more accesses than were examined: the newest were."""
    shifts: tuple[Shift, ...]
    actors: tuple[Affected, ...]
    """Those with the most accesses changed."""
    accesses: tuple[Changed, ...]
    """The newest of those changed."""


@dataclass(frozen=True)
class Sets:
    """The rules that decide on one surface in one place."""

    platform: RuleSet
    tenants: RuleSet

    def decide(
        self,
        request: AuthorizationRequest,
        at: datetime,
        *,
        everywhere: bool,
        covers: FindGrant = nothing_granted,
    ) -> Verdict:
        return decide(
            self.platform, self.tenants, request, at, everywhere=everywhere, covers=covers
        )

    def changed_by(self, proposal: Proposal, surface: str) -> "Sets":
        """The same value where it makes no difference. A tenant's proposal is among `tenants`,
        which are that tenant's or everybody's."""
        ours = proposal.tenant_id is None
        before = self.platform if ours else self.tenants
        after = proposal.among(before, surface)
        if after is before:
            return self
        return Sets(after, self.tenants) if ours else Sets(self.platform, after)


def replay(
    accesses: Iterable[PastAccess], proposal: Proposal, read: ReadRules, *, truncated: bool
) -> Replay:
    """`accesses` come the newest first."""
    benches = _Evaluators(proposal, read)
    shifts: Counter[tuple[ReplayOutcome, ReplayOutcome]] = Counter()
    actors: Counter[str] = Counter()
    named: list[Changed] = []
    examined = 0
    for access in accesses:
        examined += 1
        bench = benches.of(access)
        if bench is None:
            continue
        before, after = bench.compare(access)
        if before == after:
            continue
        shifts[before, after] += 1
        actors[access.request.email] += 1
        if len(named) < NAMED_ACCESSES:
            named.append(_changed(access, before, after))
    return Replay(
        examined=examined,
        changed=shifts.total(),
        truncated=truncated,
        shifts=tuple(Shift(*kind, accesses) for kind, accesses in shifts.most_common()),
        actors=tuple(Affected(*counted) for counted in actors.most_common(NAMED_ACTORS)),
        accesses=tuple(named),
    )


class _Evaluators:
    """A bench for each place at which the proposal may make a difference. Tenants without rules of
    their own are one place."""

    def __init__(self, proposal: Proposal, read: ReadRules) -> None:
        self._proposal = proposal
        self._read = read
        self._sets: dict[tuple[UUID | None, str], tuple[RuleSet, RuleSet]] = {}
        self._benches: dict[Hashable, _Evaluator] = {}

    def of(self, access: PastAccess) -> "_Evaluator | None":
        """Of an access to all tenants only the platform's rules may make a difference, and those of
        the tenant whose rule is proposed."""
        surface, whose = access.request.surface, access.tenant_id
        if access.everywhere:
            whose = self._proposal.tenant_id
        if self._proposal.tenant_id not in (None, whose):
            return None
        ours = self._before_and_after(None, surface)
        theirs = _NONE if whose is None else self._before_and_after(whose, surface)
        if ours[0] is ours[1] and theirs[0] is theirs[1]:
            return None
        place = (surface, access.everywhere, id(theirs[0]))
        if place not in self._benches:
            before, after = Sets(ours[0], theirs[0]), Sets(ours[1], theirs[1])
            self._benches[place] = _Evaluator(self._proposal.tenant_id, before, after)
        return self._benches[place]

    def _before_and_after(self, whose: UUID | None, surface: str) -> tuple[RuleSet, RuleSet]:
        found = self._sets.get((whose, surface))
        if found is None:
            before = self._read(whose, surface)
            ours = whose == self._proposal.tenant_id
            after = self._proposal.among(before, surface) if ours else before
            found = self._sets[whose, surface] = before, after
        return found


class _Evaluator:
    """Judges the accesses to one place, each class of them once."""

    def __init__(self, whose: UUID | None, before: Sets, after: Sets) -> None:
        every = (before.platform, before.tenants, after.platform, after.tenants)
        asked = [c.rule for rules in every for c in rules.candidates if c.rule is not None]
        self._whose, self._before, self._after = whose, before, after
        self._distinctions = RequestClasses(asked)
        self._known: dict[Hashable, tuple[ReplayOutcome, ReplayOutcome]] = {}

    def compare(self, access: PastAccess) -> tuple[ReplayOutcome, ReplayOutcome]:
        kind = (access.approved, self._distinctions.class_of(access.request, access.at))
        found = self._known.get(kind)
        if found is None:
            found = self._decide(self._before, access), self._decide(self._after, access)
            self._known[kind] = found
        return found

    def _decide(self, sets: Sets, access: PastAccess) -> ReplayOutcome:
        covers = _approved if access.approved else nothing_granted
        verdict = sets.decide(
            access.request, access.at, everywhere=access.everywhere, covers=covers
        )
        if not access.everywhere or self._whose is None or verdict.ruling != "allowed":
            return verdict.ruling
        return "excluded" if self._whose in verdict.excluded.tenants else "included"


def _approved(_: Candidate) -> GrantMatch:
    return GrantMatch(DRAFT, _FOREVER)


def _changed(access: PastAccess, before: ReplayOutcome, after: ReplayOutcome) -> Changed:
    request = access.request
    return Changed(
        access.id, access.at, request.email, request.surface, request.reason, before, after
    )
