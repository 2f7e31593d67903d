"""Requests for grants: evaluate them by the current rules, and submit them for approval.

Functions here run in the requester's scope and do not commit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import select
from uuid_utils.compat import uuid7

from webapp.extensions import db
from webapp.grants.active import grant_of
from webapp.grants.grant import Grant, GrantRequest
from webapp.grants.models import GrantRow
from webapp.grants.notices import outbox
from webapp.http.errors import Conflict, Invalid
from webapp.identity.models import Tenant
from webapp.identity.principal import Principal
from webapp.rules.models import RuleRow
from webapp.rules.rule_sets import load
from webapp.scope.decision import (
    ALL_TENANTS_TARGET,
    Allowed,
    Denied,
    NeedsApproval,
    RulesOutcome,
    Target,
    TenantTarget,
)
from webapp.scope.enter import current_decider

TO_BE_DECIDED = "To be decided."

LAPSES = timedelta(hours=24)
"""A request lapses after this time if nobody has decided it."""


@dataclass(frozen=True)
class EvaluatedRequest:
    """A request for one target, with what the rules say of it."""

    grant_id: UUID
    target: Target
    decision: Allowed | Denied
    rules: tuple[UUID, ...] = ()
    """The rules that require an approval."""

    @property
    def attempt(self) -> Allowed | Denied:
        """The decision without the grant: what a request is recorded as that makes none."""
        if isinstance(self.decision, Denied):
            return self.decision
        return Allowed(RulesOutcome(TO_BE_DECIDED))


def evaluate(
    principal: Principal, request: GrantRequest, ip: str | None
) -> tuple[EvaluatedRequest, ...]:
    """Evaluate a request for each of its targets. If the rules deny some, return only those."""
    evaluated = tuple(_evaluate(principal, target, request, ip) for target in _targets(request))
    return tuple(e for e in evaluated if isinstance(e.decision, Denied)) or evaluated


def find_problem(
    request: GrantRequest, evaluated: Iterable[EvaluatedRequest]
) -> Conflict | Invalid | None:
    """Why no grant can be requested so, though no rule denies it; `None` if nothing is wrong.

    A tenant is unknown, no approval is needed, or the time is longer than the rules allow.
    """
    asked = [e for e in evaluated if not isinstance(e.decision, Denied)]
    if unknown := _unknown(request, asked):
        return unknown
    if free := [_name(e.target) for e in asked if not e.rules]:
        return Conflict(f"No approval is needed for {' and '.join(free)}.")
    return _longer(request.minutes, {rule for e in asked for rule in e.rules})


def submit(
    principal: Principal, request: GrantRequest, evaluated: Iterable[EvaluatedRequest]
) -> tuple[Grant, ...]:
    """Store the evaluated requests, which then wait for a decision."""
    now = datetime.now(UTC)
    return tuple(_submit(principal, request, one, now) for one in evaluated)


def _targets(request: GrantRequest) -> list[Target]:
    if request.tenants is None:
        return [ALL_TENANTS_TARGET]
    slugs = dict.fromkeys(request.tenants)
    found = db.session.execute(
        select(Tenant.slug, Tenant.id).where(Tenant.slug.in_(slugs), Tenant.ended_at.is_(None))
    )
    ids = dict(iter(found))
    return [TenantTarget(ids.get(slug), slug) for slug in slugs]


def _evaluate(
    principal: Principal, target: Target, request: GrantRequest, ip: str | None
) -> EvaluatedRequest:
    grant_id = uuid7()
    rules: dict[UUID, None] = {}
    for outcome in _outcomes(principal, target, request, ip):
        if isinstance(outcome, Denied):
            return EvaluatedRequest(grant_id, target, outcome)
        rules |= dict.fromkeys(outcome.rules)
    to_be_decided = Allowed(RulesOutcome(TO_BE_DECIDED, grants=(grant_id,)))
    return EvaluatedRequest(grant_id, target, to_be_decided, tuple(rules))


def _outcomes(
    principal: Principal, target: Target, request: GrantRequest, ip: str | None
) -> Iterator[RulesOutcome | Denied]:
    """A denial, or the rules that require an approval, for each surface that is not free.

    In the principal's own tenant no rule is evaluated.
    """
    if isinstance(target, TenantTarget) and principal.membership(target.slug) is not None:
        return
    for surface in dict.fromkeys(request.surfaces):
        decision = current_decider().decide(principal, surface, target, request.reason, ip)
        if isinstance(decision, Denied):
            yield decision
        elif isinstance(decision, NeedsApproval):
            yield decision.outcome


def _unknown(request: GrantRequest, evaluated: Iterable[EvaluatedRequest]) -> Invalid | None:
    targets = [e.target for e in evaluated if isinstance(e.target, TenantTarget)]
    unknown = {target.slug for target in targets if target.tenant_id is None}
    if not unknown:
        return None
    slugs = enumerate(request.tenants or ())
    errors = {f"tenants.{place}": ["does not exist"] for place, slug in slugs if slug in unknown}
    return Invalid("A requested tenant does not exist.", errors)


def _longer(minutes: int, rules: Iterable[UUID]) -> Invalid | None:
    limits = [c.rule.max_minutes for c in load(RuleRow.id.in_(list(rules))) if c.rule]
    longest = min((limit for limit in limits if limit is not None), default=minutes)
    if minutes <= longest:
        return None
    problem = f"must be {longest} at most"
    return Invalid(f"By the rules the minutes {problem}.", {"minutes": [problem]})


def _name(target: Target) -> str:
    return target.slug if isinstance(target, TenantTarget) else "all tenants"


def _submit(
    principal: Principal, request: GrantRequest, evaluated: EvaluatedRequest, now: datetime
) -> Grant:
    target = evaluated.target
    row = GrantRow(
        id=evaluated.grant_id,
        tenant_id=target.tenant_id if isinstance(target, TenantTarget) else None,
        kind="approval",
        principal_id=principal.id,
        principal_email=principal.email,
        surfaces=list(dict.fromkeys(request.surfaces)),
        reason_code=request.reason.code,
        ticket=request.reason.ticket,
        note=request.reason.note,
        minutes=request.minutes,
        rule_ids=list(evaluated.rules),
        state="requested",
        requested_at=now,
        ends_at=now + LAPSES,
        version=1,
    )
    db.session.add(row)
    db.session.flush()
    grant = grant_of(row, target.slug if isinstance(target, TenantTarget) else None, ())
    outbox.enqueue("asked", grant)
    return grant
