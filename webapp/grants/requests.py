"""GrantRequest for grants: what the rules say now of what is wanted, and the requests that come of
it.

Everything runs in the scope of what concerns the asker; nothing here commits.
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
from webapp.grants.notices import outbox as notices
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

LAPSES = timedelta(hours=24)
"""After which a request that nobody has decided is none any more."""


@dataclass(frozen=True)
class Request:
    """A grant to be asked for, or what the rules deny of it."""

    grant_id: UUID
    target: Target
    decision: Allowed | Denied
    rules: tuple[UUID, ...] = ()
    """Those that want an approval."""


def evaluate(principal: Principal, wanted: GrantRequest, ip: str | None) -> tuple[Request, ...]:
    """One request for each tenant wanted; where the rules deny any of them, only those.

    Raises `Invalid` for tenants that are not there, and for a time longer than the rules allow;
    `Conflict` where no approval is needed.
    """
    requests = [_evaluate(principal, target, wanted, ip) for target in _targets(wanted)]
    if denied := tuple(r for r in requests if isinstance(r.decision, Denied)):
        return denied
    _refuse_unknown(wanted, requests)
    if free := [_name(r.target) for r in requests if not r.rules]:
        raise Conflict(f"No approval is needed for {' and '.join(free)}.")
    _refuse_longer(wanted.minutes, {rule for r in requests for rule in r.rules})
    return tuple(requests)


def place(
    principal: Principal, wanted: GrantRequest, requests: Iterable[Request]
) -> tuple[Grant, ...]:
    """Make the requests, which then wait for somebody to decide."""
    now = datetime.now(UTC)
    return tuple(_place(principal, wanted, request, now) for request in requests)


def _targets(wanted: GrantRequest) -> list[Target]:
    if wanted.tenants is None:
        return [ALL_TENANTS_TARGET]
    slugs = dict.fromkeys(wanted.tenants)
    found = db.session.execute(
        select(Tenant.slug, Tenant.id).where(Tenant.slug.in_(slugs), Tenant.ended_at.is_(None))
    )
    ids = dict(iter(found))
    return [TenantTarget(ids.get(slug), slug) for slug in slugs]


def _evaluate(
    principal: Principal, target: Target, wanted: GrantRequest, ip: str | None
) -> Request:
    grant_id = uuid7()
    rules: dict[UUID, None] = {}
    for outcome in _asking(principal, target, wanted, ip):
        if isinstance(outcome, Denied):
            return Request(grant_id, target, outcome)
        rules |= dict.fromkeys(outcome.rules)
    to_be_decided = Allowed(RulesOutcome("To be decided.", grants=(grant_id,)))
    return Request(grant_id, target, to_be_decided, tuple(rules))


def _asking(
    principal: Principal, target: Target, wanted: GrantRequest, ip: str | None
) -> Iterator[RulesOutcome | Denied]:
    """What the rules deny, or want an approval for, by surface. At home they have no say."""
    if isinstance(target, TenantTarget) and principal.membership(target.slug) is not None:
        return
    for surface in dict.fromkeys(wanted.surfaces):
        decision = current_decider().decide(principal, surface, target, wanted.reason, ip)
        if isinstance(decision, Denied):
            yield decision
        elif isinstance(decision, NeedsApproval):
            yield decision.outcome


def _refuse_unknown(wanted: GrantRequest, requests: Iterable[Request]) -> None:
    targets = [r.target for r in requests if isinstance(r.target, TenantTarget)]
    unknown = {target.slug for target in targets if target.tenant_id is None}
    if unknown:
        slugs = enumerate(wanted.tenants or ())
        errors = {f"tenants.{place}": ["is none"] for place, slug in slugs if slug in unknown}
        raise Invalid("A tenant that is wanted is not there.", errors)


def _refuse_longer(minutes: int, rules: Iterable[UUID]) -> None:
    limits = [c.rule.max_minutes for c in load(RuleRow.id.in_(list(rules))) if c.rule]
    longest = min((limit for limit in limits if limit is not None), default=minutes)
    if minutes > longest:
        problem = f"must be {longest} at most"
        raise Invalid(f"The minutes {problem}, as the rules say.", {"minutes": [problem]})


def _name(target: Target) -> str:
    return target.slug if isinstance(target, TenantTarget) else "all tenants"


def _place(principal: Principal, wanted: GrantRequest, request: Request, now: datetime) -> Grant:
    target = request.target
    row = GrantRow(
        id=request.grant_id,
        tenant_id=target.tenant_id if isinstance(target, TenantTarget) else None,
        kind="approval",
        principal_id=principal.id,
        principal_email=principal.email,
        surfaces=list(dict.fromkeys(wanted.surfaces)),
        reason_code=wanted.reason.code,
        ticket=wanted.reason.ticket,
        note=wanted.reason.note,
        minutes=wanted.minutes,
        rule_ids=list(request.rules),
        state="requested",
        requested_at=now,
        ends_at=now + LAPSES,
        version=1,
    )
    db.session.add(row)
    db.session.flush()
    grant = grant_of(row, target.slug if isinstance(target, TenantTarget) else None, ())
    notices.enqueue("asked", grant)
    return grant
