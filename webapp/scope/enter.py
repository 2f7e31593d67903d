"""The only way of a request into a scope: decide, record, enter."""

from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import cast
from uuid import UUID, uuid4

import structlog
from flask import Flask, current_app
from prometheus_client import Counter

from webapp.audit import event, recorder
from webapp.db.scopes import (
    NO_EXCLUSION,
    Exclusion,
    GlobalScope,
    PrincipalScope,
    Scope,
    TenantScope,
)
from webapp.extensions import db
from webapp.http.errors import (
    ApprovalRequired,
    ElevationDenied,
    Forbidden,
    NotFound,
    RateLimited,
    ReasonRequired,
)
from webapp.http.rate_limits import current_limits
from webapp.http.state import current_state
from webapp.identity.principal import STAFF_ROLES, Principal
from webapp.scope.decision import (
    Allowed,
    Decider,
    Decision,
    Denied,
    GlobalTarget,
    NeedsApproval,
    NeedsReason,
    RulesOutcome,
    Surface,
    Target,
    TenantTarget,
    decide,
)
from webapp.scope.headers import Reason

ASK = "/admin/api/grants"
"""The path where approvals are requested."""

LIMITED = Counter(
    "sightline_denied_limited_total",
    "Refused attempts beyond the limit of their actor, which are answered 429 and not recorded.",
)

log = structlog.get_logger()

_EXTENSION = "decider"


def bind_decider(app: Flask, decider: Decider) -> None:
    app.extensions[_EXTENSION] = decider


def current_decider() -> Decider:
    decider: Decider = current_app.extensions[_EXTENSION]
    return decider


def enter_scope(
    principal: Principal, surface: Surface, target: Target, reason: Reason | None, ip: str | None
) -> AbstractContextManager[Scope]:
    """A context manager that runs a block in the scope that `target` names.

    An elevation, and any use of a surface that changes something or streams, has begun in the
    journal before this returns, whether it is allowed or not.

    Raises `Forbidden` in the principal's own tenant, and `ReasonRequired`, `ElevationDenied` or
    `ApprovalRequired` beyond it. Raises `NotFound` for a tenant that does not exist: only those who
    may elevate learn that. Raises `RateLimited` instead of a refusal beyond the limit of those.
    """
    decision = decide(principal, surface, target, reason, ip, current_decider())
    if isinstance(decision, NeedsReason):
        raise ReasonRequired("Say why in the header Sightline-Reason.")
    event_id = None
    current_state().elevated |= _is_elevation(decision)
    if surface.changes or surface.streams or _is_elevation(decision):
        event_id = begin_access(principal, surface, target, reason, decision)
    raise_unless_allowed(decision)
    scope = _scope(target, event_id, decision)
    return cast(AbstractContextManager[Scope], db.scoped(scope))


def enter_own(principal: Principal, *, decides: bool) -> AbstractContextManager[PrincipalScope]:
    """A context manager that runs a block in the scope of what concerns the principal.

    With `decides`, that is for staff everything that somebody may have to decide about.
    """
    administers = frozenset(m.tenant_id for m in principal.memberships if m.role == "admin")
    staff = decides and bool(principal.platform_roles & set(STAFF_ROLES))
    return db.scoped(PrincipalScope(principal.id, administers, staff))


def begin_access(
    principal: Principal,
    surface: Surface,
    target: Target,
    reason: Reason | None,
    decision: Decision,
    external: recorder.ExternalAccess | None = None,
) -> UUID:
    """Record a use of the surface, and return its event's id; raises as `recorder.begin` does.

    Raises `RateLimited` where it is refused, and its actor has had too many refused already.
    """
    if not isinstance(decision, Allowed):
        count_refused(principal, surface, by_way_of_service=external is not None)
    access = recorder.Access(
        kind="change" if surface.changes else "access",
        actor=event.Actor(
            email=principal.email,
            id=principal.id,
            mfa=principal.mfa,
            roles=principal.roles,
            token_id=principal.token_id,
        ),
        surface=surface.name,
        reason=_event_reason(reason) if reason else None,
        scope=_event_scope(target),
        decision=_event_decision(decision),
        open=bool(surface.open_because),
        streams=surface.streams,
        external=external,
    )
    return recorder.begin(access)


def count_refused(
    principal: Principal, surface: Surface, *, by_way_of_service: bool = False
) -> None:
    """Count a refused attempt before it is recorded; raises `RateLimited` beyond the limit.

    An event stays for good: nobody may fill the ledger with what is refused. Of a service each
    token counts for itself; what it asks on behalf of a person counts for the person.
    """
    is_service = "service" in principal.platform_roles and principal.token_id is not None
    key = principal.token_id if is_service else principal.id
    limit = current_limits().denied
    try:
        if by_way_of_service:
            limit.take(key)
        else:
            limit.count(key, current_state())
    except RateLimited:
        LIMITED.inc()
        log.warning("denied_limited", actor=str(principal.id), surface=surface.name)
        raise


def raise_unless_allowed(decision: Decision) -> None:
    match decision:
        case NeedsApproval(outcome):
            raise ApprovalRequired(
                outcome.explanation, rules=outcome.rules, named=_named(outcome), ask=ASK
            )
        case Denied(detail, None):
            raise Forbidden(detail)
        case Denied(detail, RulesOutcome() as outcome):
            raise ElevationDenied(detail, rules=outcome.rules, named=_named(outcome))


def _named(outcome: RulesOutcome) -> list[dict[str, object]]:
    return [asdict(rule) for rule in outcome.named]


def _is_elevation(decision: Decision) -> bool:
    return isinstance(decision, NeedsApproval) or (
        isinstance(decision, (Allowed, Denied)) and decision.elevated
    )


def _scope(target: Target, event_id: UUID | None, decision: Decision) -> Scope:
    match target:
        case GlobalTarget():
            outcome = decision.outcome if isinstance(decision, Allowed) else None
            return GlobalScope(event_id or uuid4(), outcome.excluded if outcome else NO_EXCLUSION)
        case TenantTarget(None):
            raise NotFound("There is no such tenant.")
        case TenantTarget(UUID() as tenant_id):
            return TenantScope(tenant_id)
    raise TypeError(target)


def _event_reason(reason: Reason) -> event.Reason:
    return event.Reason(code=reason.code, note=reason.note, ticket=reason.ticket)


def _event_scope(target: Target) -> event.EventScope:
    if isinstance(target, GlobalTarget):
        return event.EventScope(kind="global", tenant=None, tenant_id=None)
    return event.EventScope(kind="tenant", tenant=target.slug, tenant_id=target.tenant_id)


def _event_decision(decision: Decision) -> event.EventDecision:
    match decision:
        case NeedsReason() | Allowed(None):
            return event.EventDecision("allowed")
        case Allowed(RulesOutcome() as outcome):
            return _event_outcome("allowed", outcome)
        case NeedsApproval(outcome):
            return _event_outcome("approval_required", outcome)
        case Denied(_, None):
            return event.EventDecision("denied")
        case Denied(_, RulesOutcome() as outcome):
            return _event_outcome("denied", outcome)
    raise TypeError(decision)


def _event_outcome(effect: event.Ruling, outcome: RulesOutcome) -> event.EventDecision:
    return event.EventDecision(
        effect,
        excluded=_excluded(outcome.excluded),
        grant_ids=outcome.grants,
        policy_version=outcome.policy_version,
        rule_ids=outcome.rules,
    )


def _excluded(exclusion: Exclusion) -> event.ExcludedTenants | None:
    if not exclusion.tenants:
        return None
    return event.ExcludedTenants(len(exclusion.tenants), exclusion.digest, exclusion.setting)
