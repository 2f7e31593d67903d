"""Evaluation of rule sets for one access: values in, a verdict out.

The platform's rules must allow the access; a tenant's rules can only narrow it. `deny` beats
`require_approval`, which beats `allow`. If no rule applies, the access is denied. A rule that
cannot be read or evaluated denies it too.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from time import thread_time
from typing import NamedTuple
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
from webapp.rules.rule import Rule, count_conditions

MINUTE = timedelta(minutes=1)
BATCH_SIZE = 400_000
"""Characters of policies that are prepared in one call, before a budget is looked at again."""

LINK_SIZE = 200
"""Characters that a rule adds even if it shares all its texts with another one."""


@dataclass(frozen=True)
class Candidate:
    """A rule that may apply to an access."""

    id: UUID
    tenant_id: UUID | None
    """The owner; `None` for the platform."""
    rule: Rule | None
    """`None` if the rule cannot be read: then it denies."""


@dataclass(frozen=True)
class GrantMatch:
    """A grant that gives the approval that a rule requires, until `ends_at`."""

    grant_id: UUID
    ends_at: datetime


FindGrant = Callable[[Candidate], GrantMatch | None]
"""Find the grant that gives the approval which a rule requires."""


def find_no_grant(_: Candidate) -> None:
    return None


@dataclass(frozen=True)
class Verdict:
    """What the platform's and the tenants' rules decide about one access."""

    ruling: Ruling
    decided_by: tuple[Candidate, ...]
    """The rules that decided; none if the access is denied because no rule allows it."""
    excluded: Exclusion = NO_EXCLUSION
    """The tenants that an access to all tenants leaves out."""
    grants: tuple[UUID, ...] = ()
    """The grants that gave the required approvals."""
    bypassed_approvals: tuple[Candidate, ...] = ()
    """The rules whose required approvals break-glass bypasses."""
    minutes: int | None = None
    """For how long at most the rules allow it; `None` if no rule sets a limit."""
    failed: bool = False
    """Whether a rule could not be read or evaluated."""
    until: datetime | None = None
    """When the first of the matching grants ends; `None` if no grant matches."""


@dataclass(frozen=True)
class Evaluation:
    """The rules of one set that apply to an access, by effect."""

    allowed: bool
    denying: tuple[Candidate, ...]
    approving: tuple[Candidate, ...]
    allowing: tuple[Candidate, ...]
    unreadable: tuple[Candidate, ...] = ()
    """The rules among `denying` that deny because they cannot be read."""
    failed: bool = False


NOTHING = Evaluation(allowed=False, denying=(), approving=(), allowing=())
"""The evaluation of an empty set."""


@dataclass(frozen=True)
class Batch:
    """Rules that Cedar evaluates in one call."""

    candidates: tuple[Candidate, ...]
    prepared: cedar.Prepared = field(repr=False)


@dataclass(frozen=True)
class RuleSet:
    """Rules, prepared for evaluation. Make one with `prepare`, or with `combine`."""

    batches: tuple[Batch, ...] = ()
    unreadable: tuple[Candidate, ...] = ()
    """The rules that cannot be made into policies, and those that are not prepared. They deny."""
    over_budget: tuple[Candidate, ...] = ()
    """The rules among `unreadable` that would take too long to prepare."""
    pending: bool = False
    """Whether some of `unreadable` deny only until they are prepared, a moment later."""

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """The rules that are evaluated."""
        return tuple(candidate for batch in self.batches for candidate in batch.candidates)

    def evaluate(
        self,
        request: AuthorizationRequest,
        at: datetime,
        *,
        approved: bool = False,
        granted: bool = False,
    ) -> Evaluation:
        """Find the rules that apply.

        If a rule denies or requires an approval, `allowing` is empty; otherwise `denying` and
        `approving` are empty.
        """
        found: dict[Part, list[Candidate]] = {"deny": [], "approve": [], "permit": []}
        permitted = failed = False
        for batch in self.batches:
            response = cedar.ask(batch.prepared, request, at, approved=approved, granted=granted)
            permitted = permitted or response.allowed
            failed = failed or bool(response.errors)
            for place, part in response.policies:
                found[part].append(batch.candidates[place])
        # In Cedar any policy that forbids beats all that permit. So it does across batches.
        forbidden = bool(found["deny"] or found["approve"])
        return Evaluation(
            allowed=permitted and not (forbidden or failed or self.unreadable),
            denying=(*_by_id(found["deny"]), *self.unreadable),
            approving=_by_id(found["approve"]),
            allowing=() if forbidden else _by_id(found["permit"]),
            unreadable=self.unreadable,
            failed=failed,
        )

    def without(self, rule_id: UUID | None) -> "RuleSet":
        """The set without a rule, of which only the rule's batch is prepared again.

        Returns the same set if the rule is not in it.
        """
        if all(c.id != rule_id for c in (*self.candidates, *self.unreadable)):
            return self
        return combine(
            [
                *(_without(batch, rule_id) for batch in self.batches),
                RuleSet(
                    unreadable=tuple(c for c in self.unreadable if c.id != rule_id),
                    over_budget=tuple(c for c in self.over_budget if c.id != rule_id),
                    pending=self.pending,
                ),
            ]
        )

    def next_change(self, at: datetime) -> datetime | None:
        """When time alone may change the evaluation of these rules; `None`: never."""
        if self.pending:
            return at
        moments = []
        for rule in (candidate.rule for candidate in self.candidates):
            if rule is None:
                continue
            moments += [m for m in (rule.starts_at, rule.ends_at) if m is not None and m > at]
            if rule.windows:
                moments.append(at.replace(second=0, microsecond=0) + MINUTE)
        return min(moments, default=None)


NO_RULES = RuleSet()


def prepare(candidates: Iterable[Candidate], budget: float | None = None) -> RuleSet:
    """Prepare the enabled rules for evaluation.

    Rules that cannot be made into policies are kept apart: they deny every access. If preparation
    takes more than `budget` seconds of CPU time, all rules deny. No single rule is interrupted.
    """
    enabled = [c for c in candidates if c.rule is None or c.rule.enabled]
    if budget is None:
        return _prepare([_Draft(candidate, _policies(candidate)) for candidate in enabled])
    began, sets = thread_time(), []
    for batch in _batches(enabled):
        if thread_time() - began > budget:
            return RuleSet(unreadable=tuple(enabled), over_budget=tuple(enabled))
        sets.append(_prepare(batch))
    return combine(sets)


def combine(sets: Iterable[RuleSet]) -> RuleSet:
    """The rules of all the sets, evaluated as if they had been prepared together."""
    every = tuple(sets)
    return RuleSet(
        batches=tuple(batch for s in every for batch in s.batches),
        unreadable=tuple(candidate for s in every for candidate in s.unreadable),
        over_budget=tuple(candidate for s in every for candidate in s.over_budget),
        pending=any(s.pending for s in every),
    )


def _without(batch: Batch, rule_id: UUID | None) -> RuleSet:
    others = [candidate for candidate in batch.candidates if candidate.id != rule_id]
    return RuleSet((batch,)) if len(others) == len(batch.candidates) else prepare(others)


def count_all_conditions(candidates: Iterable[Candidate]) -> int:
    """The conditions of all the rules together."""
    return sum(count_conditions(c.rule) for c in candidates if c.rule is not None)


class _Draft(NamedTuple):
    """A rule on its way into a batch, with its policies, or `None` if it has none."""

    candidate: Candidate
    policies: tuple[Policy, ...] | None


def _batches(candidates: Iterable[Candidate]) -> Iterator[list[_Draft]]:
    """Split rules into batches of about BATCH_SIZE, or of a single rule that is larger.

    Texts that policies of a batch share count once, since Cedar reads them once.
    """
    batch: list[_Draft] = []
    texts: set[str] = set()
    for candidate in candidates:
        policies = _policies(candidate)
        batch.append(_Draft(candidate, policies))
        for policy in policies or ():
            texts |= {policy.template, policy.subjects, policy.surfaces}
        if sum(map(len, texts)) + LINK_SIZE * len(batch) >= BATCH_SIZE:
            yield batch
            batch, texts = [], set()
    if batch:
        yield batch


def _prepare(drafts: Iterable[_Draft]) -> RuleSet:
    readable: list[tuple[Candidate, tuple[Policy, ...]]] = []
    unreadable: list[Candidate] = []
    for candidate, policies in drafts:
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
    batch = Batch(tuple(candidate for candidate, _ in readable), prepared)
    return RuleSet((batch,) if readable else (), tuple(unreadable))


def decide(
    platform: RuleSet,
    tenants: RuleSet,
    request: AuthorizationRequest,
    at: datetime,
    *,
    everywhere: bool,
    find_grant: FindGrant = find_no_grant,
) -> Verdict:
    """Decide an access by the platform's rules and the tenants' rules.

    `tenants` holds the rules of the one tenant accessed. With `everywhere` it holds the rules of
    all tenants: each tenant's rules then decide whether the access leaves that tenant out.
    """
    by_platform = platform.evaluate(request, at)
    by_tenants = tenants.evaluate(request, at)
    if by_platform.failed or by_tenants.failed:
        return Verdict("denied", (), failed=True)
    if everywhere:
        verdict = _decide(platform, by_platform, NOTHING, request, at, find_grant)
        if verdict.ruling != "allowed":
            return verdict
        return _exclude_tenants(verdict, by_tenants, request, find_grant)
    return _decide(platform, by_platform, by_tenants, request, at, find_grant)


def valid_until(verdict: Verdict, sets: Iterable[RuleSet], at: datetime) -> datetime | None:
    """When a verdict must be renewed although no rule and no grant has changed; `None`: never."""
    moments = [moment for s in sets if (moment := s.next_change(at)) is not None]
    return min((*moments, *([verdict.until] if verdict.until else [])), default=None)


def _decide(
    platform: RuleSet,
    by_platform: Evaluation,
    by_tenant: Evaluation,
    request: AuthorizationRequest,
    at: datetime,
    find_grant: FindGrant,
) -> Verdict:
    """Decide by the evaluations of the platform's rules and of one tenant's rules."""
    if denying := (*by_platform.denying, *by_tenant.denying):
        failed = bool(by_platform.unreadable or by_tenant.unreadable)
        return Verdict("denied", denying, failed=failed)
    approving = (*by_platform.approving, *by_tenant.approving)
    needs_break_glass = request.reason == BREAK_GLASS
    matches = {c: None if needs_break_glass else find_grant(c) for c in approving}
    used = [match for match in matches.values() if match is not None]
    until = min((match.ends_at for match in used), default=None)
    granted = all(matches[c] for c in by_platform.approving)
    missing = tuple(c for c, match in matches.items() if match is None)
    if missing and not needs_break_glass:
        if by_platform.approving or by_platform.allowed:
            return Verdict("approval_required", missing, until=until)
        return Verdict("denied", ())
    final = by_platform
    if approving:
        final = platform.evaluate(request, at, approved=True, granted=granted)
    if not final.allowed:
        return Verdict("denied", final.denying, failed=final.failed)
    return Verdict(
        "allowed",
        final.allowing if needs_break_glass else _once((*final.allowing, *approving)),
        grants=tuple(sorted({match.grant_id for match in used})),
        bypassed_approvals=approving if needs_break_glass else (),
        minutes=_minutes(final.allowing, () if needs_break_glass else approving),
        until=until,
    )


def _exclude_tenants(
    verdict: Verdict, by_tenants: Evaluation, request: AuthorizationRequest, find_grant: FindGrant
) -> Verdict:
    """Narrow the verdict on an access to all tenants: leave out those whose rules refuse it."""
    needs_break_glass = request.reason == BREAK_GLASS
    excluded = _tenants(by_tenants.denying)
    matches = {c: None if needs_break_glass else find_grant(c) for c in by_tenants.approving}
    if not needs_break_glass:
        excluded |= _tenants(c for c, match in matches.items() if match is None)
    used = {c: m for c, m in matches.items() if m is not None and c.tenant_id not in excluded}
    bypassed_approvals = [
        c for c in by_tenants.approving if needs_break_glass and c.tenant_id not in excluded
    ]
    ends = [match.ends_at for match in used.values()]
    limits = [c.rule.max_minutes for c in used if c.rule and c.rule.max_minutes is not None]
    return Verdict(
        "allowed",
        verdict.decided_by,
        excluded=Exclusion(frozenset(excluded)) if excluded else NO_EXCLUSION,
        grants=tuple(sorted({*verdict.grants, *(match.grant_id for match in used.values())})),
        bypassed_approvals=(*verdict.bypassed_approvals, *bypassed_approvals),
        minutes=min((*limits, *([verdict.minutes] if verdict.minutes else [])), default=None),
        until=min((*ends, *([verdict.until] if verdict.until else [])), default=None),
    )


def _tenants(candidates: Iterable[Candidate]) -> set[UUID]:
    return {c.tenant_id for c in candidates if c.tenant_id is not None}


def _minutes(allowing: Iterable[Candidate], approving: Iterable[Candidate]) -> int | None:
    """The longest time that an `allow` rule gives, but no longer than any approval may last."""
    allowed = [c.rule.max_minutes for c in allowing if c.rule and c.rule.effect == "allow"]
    limits = [c.rule.max_minutes for c in approving if c.rule and c.rule.max_minutes is not None]
    lengths = [minutes for minutes in allowed if minutes is not None]
    if allowed and len(lengths) == len(allowed):
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
    """Separate the rules that Cedar accepts from those that it refuses, by trying each alone."""
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
