"""What a proposed rule would have changed: verdicts without it and with it, compared."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from webapp.rules.circumstances import Circumstances
from webapp.rules.engine import (
    NO_RULES,
    Candidate,
    Cover,
    Covers,
    RuleSet,
    Verdict,
    judge,
    nothing_granted,
    prepare,
)
from webapp.rules.past import Distinctions, PastLook
from webapp.rules.rule import Rule, surfaces_covering

Outcome = Literal["allowed", "denied", "approval_required", "included", "excluded"]
"""Of a look at all tenants, where a tenant's rule is proposed: whether that tenant is left out."""

DRAFT: UUID = UUID(int=0)
"""The id of a draft that replaces no rule."""

NAMED_ACTORS = 20
NAMED_LOOKS = 100

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
    """A look that would have come out otherwise."""

    id: UUID
    """Its event's."""
    occurred_at: datetime
    actor: str
    surface: str
    reason: str
    before: Outcome
    after: Outcome


@dataclass(frozen=True)
class Shift:
    before: Outcome
    after: Outcome
    looks: int


@dataclass(frozen=True)
class Affected:
    actor: str
    looks: int


@dataclass(frozen=True)
class Replay:
    """What the proposal would have changed of the looks of the past."""

    examined: int
    changed: int
    truncated: bool
    """There were more looks than were examined: the newest were."""
    shifts: tuple[Shift, ...]
    actors: tuple[Affected, ...]
    """Those with the most looks changed."""
    looks: tuple[Changed, ...]
    """The newest of those changed."""


@dataclass(frozen=True)
class Sets:
    """The rules that decide on one surface in one place."""

    platform: RuleSet
    tenants: RuleSet

    def judge(
        self,
        about: Circumstances,
        at: datetime,
        *,
        everywhere: bool,
        covers: Covers = nothing_granted,
    ) -> Verdict:
        return judge(self.platform, self.tenants, about, at, everywhere=everywhere, covers=covers)

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
    looks: Iterable[PastLook], proposal: Proposal, read: ReadRules, *, truncated: bool
) -> Replay:
    """`looks` come the newest first."""
    benches: dict[Hashable, _Bench] = {}
    shifts: Counter[tuple[Outcome, Outcome]] = Counter()
    actors: Counter[str] = Counter()
    named: list[Changed] = []
    examined = 0
    for look in looks:
        examined += 1
        place = (look.about.surface, look.everywhere, look.tenant_id)
        bench = benches.get(place)
        if bench is None:
            bench = benches[place] = _bench(look, proposal, read)
        before, after = bench.compare(look)
        if before == after:
            continue
        shifts[before, after] += 1
        actors[look.about.email] += 1
        if len(named) < NAMED_LOOKS:
            named.append(_changed(look, before, after))
    return Replay(
        examined=examined,
        changed=shifts.total(),
        truncated=truncated,
        shifts=tuple(Shift(*kind, looks) for kind, looks in shifts.most_common()),
        actors=tuple(Affected(*counted) for counted in actors.most_common(NAMED_ACTORS)),
        looks=tuple(named),
    )


@dataclass
class _Bench:
    """Judges the looks at one place, each class of them once."""

    proposal: Proposal
    before: Sets
    after: Sets
    distinctions: Distinctions
    known: dict[Hashable, tuple[Outcome, Outcome]] = field(default_factory=dict)

    def compare(self, look: PastLook) -> tuple[Outcome, Outcome]:
        if self.after is self.before:
            return "allowed", "allowed"  # or whatever else: it is the same
        kind = (look.approved, self.distinctions.class_of(look.about, look.at))
        found = self.known.get(kind)
        if found is None:
            found = self.known[kind] = self._judge(self.before, look), self._judge(self.after, look)
        return found

    def _judge(self, sets: Sets, look: PastLook) -> Outcome:
        covers = _approved if look.approved else nothing_granted
        verdict = sets.judge(look.about, look.at, everywhere=look.everywhere, covers=covers)
        whose = self.proposal.tenant_id
        if not look.everywhere or whose is None or verdict.ruling != "allowed":
            return verdict.ruling
        return "excluded" if whose in verdict.excluded.tenants else "included"


def _bench(look: PastLook, proposal: Proposal, read: ReadRules) -> _Bench:
    """Of a look at all tenants only those rules count that may make a difference: the platform's,
    and those of the tenant whose rule is proposed."""
    surface, whose = look.about.surface, look.tenant_id
    if look.everywhere:
        whose = proposal.tenant_id
    before = Sets(read(None, surface), NO_RULES if whose is None else read(whose, surface))
    concerned = proposal.tenant_id in (None, whose)
    after = before.changed_by(proposal, surface) if concerned else before
    every = (before.platform, before.tenants, after.platform, after.tenants)
    asked = [c.rule for rules in every for c in rules.candidates if c.rule is not None]
    return _Bench(proposal, before, after, Distinctions(asked))


def _approved(_: Candidate) -> Cover:
    return Cover(DRAFT, _FOREVER)


def _changed(look: PastLook, before: Outcome, after: Outcome) -> Changed:
    about = look.about
    return Changed(look.id, look.at, about.email, about.surface, about.reason, before, after)
