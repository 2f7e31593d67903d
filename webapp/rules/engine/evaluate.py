"""What sets of rules say of an access: values in, a verdict out.

The platform's rules must allow; a tenant's can only narrow. A denial beats an approval, an approval
beats an allowance, and nothing said is a denial. Whatever cannot be read or evaluated denies.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from webapp.audit.event import Ruling
from webapp.db.scopes import NO_EXCLUSION, Exclusion
from webapp.rules.engine import cedar
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.engine.templates import (
    BREAK_GLASS,
    Part,
    Policy,
    Unreadable,
    policies_of,
)
from webapp.rules.rule import Rule

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Candidate:
    """A rule that may have something to say."""

    id: UUID
    tenant_id: UUID | None
    """`None` for the platform's."""
    rule: Rule | None
    """`None` where it cannot be read: then it denies."""


@dataclass(frozen=True)
class GrantMatch:
    """A grant that covers an approval, until `ends_at`."""

    grant_id: UUID
    ends_at: datetime


FindGrant = Callable[[Candidate], GrantMatch | None]
"""Which grant covers what a rule asks an approval for."""


def nothing_granted(_: Candidate) -> None:
    return None


@dataclass(frozen=True)
class Verdict:
    ruling: Ruling
    decided_by: tuple[Candidate, ...]
    """The rules that made it so; none where nothing allowed it."""
    excluded: Exclusion = NO_EXCLUSION
    """The tenants that an access to all of them leaves out."""
    grants: tuple[UUID, ...] = ()
    """What it rests on."""
    bypassed_approvals: tuple[Candidate, ...] = ()
    """The approvals that using break-glass did without."""
    minutes: int | None = None
    """For how long at most the rules allow it; `None` where none of them says."""
    failed: bool = False
    """A rule could not be read or evaluated."""
    until: datetime | None = None
    """From then on the same rules may say something else; `None`: never."""


@dataclass(frozen=True)
class Evaluation:
    """Which rules of a set match, by what they say."""

    allowed: bool
    denying: tuple[Candidate, ...]
    approving: tuple[Candidate, ...]
    allowing: tuple[Candidate, ...]
    unreadable: tuple[Candidate, ...] = ()
    """Those of the denying that do so for want of being readable."""
    failed: bool = False


NOTHING = Evaluation(allowed=False, denying=(), approving=(), allowing=())
"""Of no rules."""


@dataclass(frozen=True)
class RuleSet:
    """Rules, prepared to be asked. Make one with `prepare`."""

    candidates: tuple[Candidate, ...]
    unreadable: tuple[Candidate, ...]
    _prepared: cedar.Prepared = field(repr=False)

    def evaluate(
        self,
        request: AuthorizationRequest,
        at: datetime,
        *,
        approved: bool = False,
        granted: bool = False,
    ) -> Evaluation:
        """Unless a rule forbids, `denying` and `approving` are empty; else `allowing` is."""
        if not self.candidates:
            return replace(NOTHING, denying=self.unreadable, unreadable=self.unreadable)
        answer = cedar.ask(self._prepared, request, at, approved=approved, granted=granted)
        found: dict[Part, list[Candidate]] = {"deny": [], "approve": [], "permit": []}
        for place, part in answer.policies:
            found[part].append(self.candidates[place])
        return Evaluation(
            allowed=answer.allowed and not answer.errors and not self.unreadable,
            denying=(*_by_id(found["deny"]), *self.unreadable),
            approving=_by_id(found["approve"]),
            allowing=_by_id(found["permit"]),
            unreadable=self.unreadable,
            failed=bool(answer.errors),
        )

    def next_change(self, at: datetime) -> datetime | None:
        """When time alone may change what it says."""
        moments = []
        for rule in (candidate.rule for candidate in self.candidates):
            if rule is None:
                continue
            moments += [m for m in (rule.starts_at, rule.ends_at) if m is not None and m > at]
            if rule.windows:
                moments.append(at.replace(second=0, microsecond=0) + MINUTE)
        return min(moments, default=None)


def prepare(candidates: Iterable[Candidate]) -> RuleSet:
    """What cannot be made a policy of is kept apart: it denies whatever is asked. What is not
    enabled is left out."""
    readable: list[tuple[Candidate, tuple[Policy, ...]]] = []
    unreadable: list[Candidate] = []
    for candidate in candidates:
        if candidate.rule is not None and not candidate.rule.enabled:
            continue
        policies = _policies(candidate)
        if policies is None:
            unreadable.append(candidate)
        else:
            readable.append((candidate, policies))
    try:
        prepared = cedar.prepare([policies for _, policies in readable])
    except ValueError:
        readable, refused = _sift(readable)
        unreadable += refused
        prepared = cedar.prepare([policies for _, policies in readable])
    return RuleSet(tuple(candidate for candidate, _ in readable), tuple(unreadable), prepared)


NO_RULES = prepare(())


def decide(
    platform: RuleSet,
    tenants: RuleSet,
    request: AuthorizationRequest,
    at: datetime,
    *,
    everywhere: bool,
    covers: FindGrant = nothing_granted,
) -> Verdict:
    """What the platform's rules and the tenants' say.

    `tenants` has the rules of the one tenant accessed; `everywhere` those of all tenants, each of
    which then decides whether it is left out, and for how long it may be accessed with the others.
    """
    by_platform = platform.evaluate(request, at)
    by_tenants = tenants.evaluate(request, at)
    if by_platform.failed or by_tenants.failed:
        return Verdict("denied", (), failed=True)
    if everywhere:
        verdict = _decide(platform, by_platform, NOTHING, request, at, covers)
        if verdict.ruling != "allowed":
            return verdict
        return _leave_out(verdict, by_tenants, request, covers)
    return _decide(platform, by_platform, by_tenants, request, at, covers)


def lasting(verdict: Verdict, sets: Iterable[RuleSet], at: datetime) -> datetime | None:
    """Until when a verdict is good, if no rule and no grant changes."""
    moments = [moment for s in sets if (moment := s.next_change(at)) is not None]
    return min((*moments, *([verdict.until] if verdict.until else [])), default=None)


def _decide(
    platform: RuleSet,
    evaluation: Evaluation,
    tenant: Evaluation,
    request: AuthorizationRequest,
    at: datetime,
    covers: FindGrant,
) -> Verdict:
    """`evaluation` is of the platform's rules, `tenant` of those of the tenant accessed."""
    if denied := (*evaluation.denying, *tenant.denying):
        return Verdict("denied", denied, failed=bool(evaluation.unreadable or tenant.unreadable))
    wanted = (*evaluation.approving, *tenant.approving)
    glass = request.reason == BREAK_GLASS
    covered = {c: None if glass else covers(c) for c in wanted}
    grants = [cover for cover in covered.values() if cover is not None]
    until = min((cover.ends_at for cover in grants), default=None)
    granted = all(covered[c] for c in evaluation.approving)
    missing = tuple(c for c, cover in covered.items() if cover is None)
    if missing and not glass:
        if evaluation.approving or evaluation.allowed:
            return Verdict("approval_required", missing, until=until)
        return Verdict("denied", ())
    final = platform.evaluate(request, at, approved=True, granted=granted) if wanted else evaluation
    if not final.allowed:
        return Verdict("denied", final.denying, failed=final.failed)
    return Verdict(
        "allowed",
        final.allowing if glass else _once((*final.allowing, *wanted)),
        grants=tuple(sorted({cover.grant_id for cover in grants})),
        bypassed_approvals=wanted if glass else (),
        minutes=_minutes(final.allowing, () if glass else wanted),
        until=until,
    )


def _leave_out(
    verdict: Verdict, evaluation: Evaluation, request: AuthorizationRequest, covers: FindGrant
) -> Verdict:
    """The verdict on an access to all tenants, without those whose rules do not let it in."""
    glass = request.reason == BREAK_GLASS
    excluded = _tenants(evaluation.denying)
    covered = {c: None if glass else covers(c) for c in evaluation.approving}
    if not glass:
        excluded |= _tenants(c for c, cover in covered.items() if cover is None)
    used = {c: v for c, v in covered.items() if v is not None and c.tenant_id not in excluded}
    bypassed_approvals = [c for c in evaluation.approving if glass and c.tenant_id not in excluded]
    ends = [cover.ends_at for cover in used.values()]
    limits = [c.rule.max_minutes for c in used if c.rule and c.rule.max_minutes is not None]
    return Verdict(
        "allowed",
        verdict.decided_by,
        excluded=Exclusion(frozenset(excluded)) if excluded else NO_EXCLUSION,
        grants=tuple(sorted({*verdict.grants, *(cover.grant_id for cover in used.values())})),
        bypassed_approvals=(*verdict.bypassed_approvals, *bypassed_approvals),
        minutes=min((*limits, *([verdict.minutes] if verdict.minutes else [])), default=None),
        until=min((*ends, *([verdict.until] if verdict.until else [])), default=None),
    )


def _tenants(candidates: Iterable[Candidate]) -> set[UUID]:
    return {c.tenant_id for c in candidates if c.tenant_id is not None}


def _minutes(allowing: Iterable[Candidate], wanted: Iterable[Candidate]) -> int | None:
    """The longest that an allowance gives, cut to the shortest that an approval may."""
    given = [c.rule.max_minutes for c in allowing if c.rule and c.rule.effect == "allow"]
    limits = [c.rule.max_minutes for c in wanted if c.rule and c.rule.max_minutes is not None]
    lengths = [minutes for minutes in given if minutes is not None]
    if given and len(lengths) == len(given):
        limits.append(max(lengths))
    return min(limits, default=None)


def _policies(candidate: Candidate) -> tuple[Policy, ...] | None:
    if candidate.rule is None:
        return None
    try:
        return policies_of(candidate.rule)
    except Unreadable:
        return None


def _sift(
    readable: Sequence[tuple[Candidate, tuple[Policy, ...]]],
) -> tuple[list[tuple[Candidate, tuple[Policy, ...]]], list[Candidate]]:
    """One by one, since one of them is what Cedar refuses."""
    kept, refused = [], []
    for candidate, policies in readable:
        try:
            cedar.prepare([policies])
        except ValueError:
            refused.append(candidate)
        else:
            kept.append((candidate, policies))
    return kept, refused


def _by_id(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    return tuple(sorted(_once(candidates), key=lambda candidate: candidate.id))


def _once(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    return tuple({candidate.id: candidate for candidate in candidates}.values())
