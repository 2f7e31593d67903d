"""The only exemptions to a scope: decide, record, enter."""

from contextlib import AbstractContextManager
from uuid import UUID, uuid4

from webapp.audit import event as audit
from webapp.audit import recorder
from webapp.db.scopes import NO_EXCLUSION, GlobalScope, PrincipalScope, Scope, tenant_scope
from webapp.decisions.break_glass import break_glass
from webapp.decisions.decide import decide
from webapp.extensions import db
from webapp.http.errors import (
    ApprovalRequired,
    ElevationDenied,
    Forbidden,
    NotFound,
    ReasonRequired,
)
from webapp.identity.principal import STAFF_ROLES, Principal
from webapp.memo import remember_same
from webapp.scope.decision import (
    Allowed,
    Decision,
    Denied,
    GlobalTarget,
    NeedsApproval,
    NeedsReason,
    RulesOutcome,
    Surface,
    Target,
    TenantTarget,
)
from webapp.scope.headers import Reason

ASK = "/admin/api/grants"
"""Where to ask for an approval."""


def enter_scope(
    principal: Principal, surface: Surface, target: Target, reason: Reason | None, ip: str | None
) -> AbstractContextManager[Scope]:
    """What runs a block in the scope that `target` names, given once the policy has allowed it.

    An elevation, and any use of a surface that changes something, is noted with the recorder,
    allowed or not, before the block begins.

    Raises `Forbidden` in one's own tenant; `ReasonRequired`, `ElevationDenied`, `ApprovalRequired`
    beyond it; `NotFound` for a tenant that is not there, told only to those who may access.
    """
    decision = decide(principal, surface, target, reason, ip)
    if isinstance(decision, NeedsReason):
        raise ReasonRequired("Say why in the header Sightline-Reason.")
    if isinstance(decision, Allowed) and decision.ruled and decision.ruled.breaks_glass:
        decision = break_glass(principal, target, reason, decision.ruled, note)
    event_id = None
    if surface.changes or _is_elevation(decision):
        event_id = note(principal, surface, target, reason, decision)
    raise_unless_allowed(decision)
    return db.scoped(_scope(target, event_id, decision))


def enter_own(principal: Principal) -> AbstractContextManager[PrincipalScope]:
    """What runs a block in the scope of what concerns the principal."""
    administers = frozenset(m.tenant_id for m in principal.memberships if m.role == "admin")
    staff = bool(principal.platform_roles & set(STAFF_ROLES))
    return db.scoped(PrincipalScope(principal.id, administers, staff))


def note(
    principal: Principal,
    surface: Surface,
    target: Target,
    reason: Reason | None,
    decision: Decision,
    elsewhere: recorder.ExternalAccess | None = None,
) -> UUID:
    """Record a use of the surface, and return its event's id; raises as `recorder.note` does."""
    return recorder.note(_access(principal, surface, target, reason, decision, elsewhere))


def _is_elevation(decision: Decision) -> bool:
    return isinstance(decision, NeedsApproval) or (
        isinstance(decision, (Allowed, Denied)) and decision.elevated
    )


def raise_unless_allowed(decision: Decision) -> None:
    match decision:
        case NeedsApproval(ruled):
            raise ApprovalRequired(ruled.explanation, rules=ruled.rules, ask=ASK)
        case Denied(detail, None):
            raise Forbidden(detail)
        case Denied(detail, RulesOutcome(rules=rules)):
            raise ElevationDenied(detail, rules=rules)


def _scope(target: Target, event_id: UUID | None, decision: Decision) -> Scope:
    match target:
        case GlobalTarget():
            ruled = decision.ruled if isinstance(decision, Allowed) else None
            return GlobalScope(event_id or uuid4(), ruled.excluded if ruled else NO_EXCLUSION)
        case TenantTarget(None):
            raise NotFound("There is no such tenant.")
        case TenantTarget(UUID() as tenant_id):
            return tenant_scope(tenant_id)
    raise TypeError(target)


@remember_same(1024)
def _access(
    principal: Principal,
    surface: Surface,
    target: Target,
    reason: Reason | None,
    decision: Decision,
    elsewhere: recorder.ExternalAccess | None,
) -> recorder.Access:
    """One and the same for all that are alike: most are."""
    return recorder.Access(
        kind="change" if surface.changes else "access",
        actor=audit.Actor(
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
        elsewhere=elsewhere,
    )


def _event_reason(reason: Reason) -> audit.Reason:
    return audit.Reason(code=reason.code, note=reason.note, ticket=reason.ticket)


def _event_scope(target: Target) -> audit.EventScope:
    if isinstance(target, GlobalTarget):
        return audit.EventScope(kind="global", tenant=None, tenant_id=None)
    return audit.EventScope(kind="tenant", tenant=target.slug, tenant_id=target.tenant_id)


def _event_decision(decision: Decision) -> audit.EventDecision:
    match decision:
        case NeedsReason() | Allowed(None):
            return audit.EventDecision("allowed")
        case Allowed(RulesOutcome() as ruled):
            return _event_ruling("allowed", ruled)
        case NeedsApproval(ruled):
            return _event_ruling("approval_required", ruled)
        case Denied(_, None):
            return audit.EventDecision("denied")
        case Denied(_, RulesOutcome() as ruled):
            return _event_ruling("denied", ruled)
    raise TypeError(decision)


def _event_ruling(effect: audit.Effect, ruled: RulesOutcome) -> audit.EventDecision:
    return audit.EventDecision(
        effect,
        excluded_tenant_ids=ruled.excluded.ids,
        grant_ids=ruled.grants,
        policy_version=ruled.policy_version,
        rule_ids=ruled.rules,
    )
