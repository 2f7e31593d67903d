"""The only doors to a scope: decide, record, enter."""

from contextlib import AbstractContextManager
from uuid import UUID, uuid4

from webapp.audit import event as audit
from webapp.audit import recorder
from webapp.errors import ApprovalRequired, ElevationDenied, Forbidden, NotFound, ReasonRequired
from webapp.extensions import db
from webapp.identity.principal import Principal
from webapp.scope.policy import (
    Allowed,
    Decision,
    Denied,
    GlobalTarget,
    NeedsApproval,
    NeedsReason,
    Surface,
    Target,
    TenantTarget,
    decide,
)
from webapp.scope.reason import Reason
from webapp.scope.scopes import GlobalScope, Scope, tenant_scope


def enter_scope(
    principal: Principal, surface: Surface, target: Target, reason: Reason | None
) -> AbstractContextManager[Scope]:
    """What runs a block in the scope that `target` names, given once the policy has allowed it.

    An elevation, and any use of a surface that changes something, is noted with the recorder,
    allowed or not, before the block begins.

    Raises `Forbidden` in one's own tenant; `ReasonRequired`, `ElevationDenied`, `ApprovalRequired`
    beyond it; `NotFound` for a tenant that is not there, told only to those who may look.
    """
    decision = decide(principal, surface, target, reason)
    if isinstance(decision, NeedsReason):
        raise ReasonRequired("Say why in the header Sightline-Reason.")
    event_id = None
    if surface.changes or _is_elevation(decision):
        event_id = recorder.note(_look(principal, surface, target, reason, decision))
    _raise_unless_allowed(decision)
    return db.scoped(_scope(target, event_id))


def _is_elevation(decision: Decision) -> bool:
    return isinstance(decision, NeedsApproval) or (
        isinstance(decision, (Allowed, Denied)) and decision.elevated
    )


def _raise_unless_allowed(decision: Decision) -> None:
    match decision:
        case NeedsApproval(detail, rules):
            raise ApprovalRequired(detail, rules=rules)
        case Denied(True, detail, rules):
            raise ElevationDenied(detail, rules=rules)
        case Denied(False, detail):
            raise Forbidden(detail)


def _scope(target: Target, event_id: UUID | None) -> Scope:
    match target:
        case GlobalTarget():
            return GlobalScope(look_id=event_id or uuid4())
        case TenantTarget(None):
            raise NotFound("There is no such tenant.")
        case TenantTarget(UUID() as tenant_id):
            return tenant_scope(tenant_id)
    raise TypeError(target)


def _look(
    principal: Principal,
    surface: Surface,
    target: Target,
    reason: Reason | None,
    decision: Decision,
) -> recorder.Look:
    return recorder.Look(
        kind="change" if surface.changes else "look",
        actor=audit.Actor(
            email=principal.email,
            id=principal.id,
            roles=principal.roles,
            token_id=principal.token_id,
        ),
        surface=surface.name,
        reason=_event_reason(reason) if reason else None,
        scope=_event_scope(target),
        decision=_event_decision(decision),
        open=bool(surface.open_because),
    )


def _event_reason(reason: Reason) -> audit.Reason:
    return audit.Reason(code=reason.code, note=reason.note, ticket=reason.ticket)


def _event_scope(target: Target) -> audit.EventScope:
    if isinstance(target, GlobalTarget):
        return audit.EventScope(kind="global", tenant=None, tenant_id=None)
    return audit.EventScope(kind="tenant", tenant=target.slug, tenant_id=target.tenant_id)


def _event_decision(decision: Decision) -> audit.EventDecision:
    match decision:
        case Denied(rules=rules):
            return audit.EventDecision("denied", rule_ids=rules)
        case NeedsApproval(rules=rules):
            return audit.EventDecision("approval_required", rule_ids=rules)
    return audit.EventDecision("allowed")
