"""Break-glass: open an incident before the access that it allows, or use the one that is open.

An incident is a grant that its holder takes without approval. It covers one tenant or all tenants,
and every surface that the rules allow by break-glass, for a limited time. Its holder cannot open
another one until somebody else has reviewed it, which is possible once it is over.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from webapp.db.scopes import PrincipalScope
from webapp.db.session import violated_constraint
from webapp.extensions import db
from webapp.grants.active import load_grants, read_active_grants
from webapp.grants.grant import Grant
from webapp.grants.models import UNREVIEWED, GrantRow
from webapp.grants.service import announce
from webapp.identity.principal import Principal
from webapp.rules.engine.templates import BREAK_GLASS
from webapp.scope.decision import (
    Allowed,
    Decision,
    Denied,
    RulesOutcome,
    Surface,
    Target,
    TenantTarget,
)
from webapp.scope.enter import begin_access
from webapp.scope.headers import Reason

MINUTES = 60
"""How long an incident lasts if the rules set no limit."""

Begin = Callable[[Principal, Surface, Target, Reason | None, Decision], UUID]
"""Record an access before its effect is committed."""

_SURFACE = Surface("grants.break_glass", frozenset(), frozenset(), changes=True)


def use_break_glass(
    principal: Principal,
    target: Target,
    reason: Reason,
    outcome: RulesOutcome,
    begin: Begin = begin_access,
) -> Decision:
    """Decide an access that the rules allow by break-glass.

    If this opens an incident, `begin` records it and then it is committed. If `begin` raises, no
    incident is opened and the exception is passed on.
    """
    if isinstance(target, TenantTarget) and target.tenant_id is None:
        return Allowed(outcome)  # the tenant does not exist: there is nothing to show
    incident = _unreviewed(read_active_grants(principal.id))
    if incident is None:
        incident = _open(principal, target, reason, outcome, begin)
    refusal = _refusal(incident, target)
    if refusal is not None:
        return Denied(refusal, RulesOutcome(refusal, policy_version=outcome.policy_version))
    if set(_tenants_bypassed(target, outcome)) - set(incident.bypassed_approvals):
        _widen(principal, incident, _tenants_bypassed(target, outcome))
    until = min(incident.ends_at, outcome.until or incident.ends_at)
    return Allowed(replace(outcome, grants=(incident.id,), until=until))


def _unreviewed(grants: Iterable[Grant]) -> Grant | None:
    incidents = (g for g in grants if g.kind == "break_glass" and g.reviewed_at is None)
    return next(incidents, None)


def _open(
    principal: Principal, target: Target, reason: Reason, outcome: RulesOutcome, begin: Begin
) -> Grant:
    """Open an incident, or return the one that another request has opened at the same time."""
    now, minutes = datetime.now(UTC), outcome.minutes or MINUTES
    bypassed_approvals = _tenants_bypassed(target, outcome)
    row = GrantRow(
        id=uuid7(),
        tenant_id=_tenant_of(target),
        kind="break_glass",
        principal_id=principal.id,
        principal_email=principal.email,
        surfaces=["*"],
        reason_code=BREAK_GLASS,
        ticket=reason.ticket,
        note=reason.note,
        minutes=minutes,
        rule_ids=list(outcome.rules),
        bypassed_approvals=bypassed_approvals,
        state="approved",
        requested_at=now,
        starts_at=now,
        ends_at=now + timedelta(minutes=minutes),
        version=1,
    )
    with db.scoped(PrincipalScope(principal.id)):
        db.session.add(row)
        try:
            incident = announce("break_glass", row, bypassed_approvals)
        except IntegrityError as error:
            if violated_constraint(error) != UNREVIEWED:
                raise
            db.session.rollback()
            concurrent = _unreviewed(load_grants(GrantRow.principal_id == principal.id))
            if concurrent is None:
                raise
            return concurrent
        begin(principal, _SURFACE, target, reason, Allowed(replace(outcome, grants=(incident.id,))))
        db.session.commit()
    return incident


def _widen(principal: Principal, incident: Grant, bypassed_approvals: list[UUID]) -> None:
    """Add the tenants whose approvals the incident bypasses for the first time, and tell them.

    One incident covers many surfaces, and each surface may need the approval of other tenants.
    """
    with db.scoped(PrincipalScope(principal.id)):
        row = db.session.get_one(GrantRow, incident.id, with_for_update=True)
        added = [
            tenant_id for tenant_id in bypassed_approvals if tenant_id not in row.bypassed_approvals
        ]
        if added:
            row.bypassed_approvals = [*row.bypassed_approvals, *added]
            row.version += 1
            announce("break_glass", row, added)
            db.session.commit()


def _refusal(incident: Grant, target: Target) -> str | None:
    where = incident.tenant or "all tenants"
    if not incident.is_open(datetime.now(UTC)):
        return f"You have used break-glass for {where}. Somebody else must review it first."
    if incident.tenant_id != _tenant_of(target):
        return (
            f"You have used break-glass for {where}. Once that is over, somebody else must review"
            " it before you can use break-glass for another tenant."
        )
    return None


def _tenant_of(target: Target) -> UUID | None:
    return target.tenant_id if isinstance(target, TenantTarget) else None


def _tenants_bypassed(target: Target, outcome: RulesOutcome) -> list[UUID]:
    """The tenants to name in an incident for all tenants, since their approvals are bypassed.

    An incident for a single tenant names that tenant already.
    """
    if isinstance(target, TenantTarget):
        return []
    return [tenant_id for tenant_id in outcome.bypassed_approvals if tenant_id is not None]
