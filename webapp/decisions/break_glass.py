"""Using break-glass: an incident is open, or is opened, before the access that it lets through.

An incident is a grant that its holder has taken: of one tenant, or of all, for any surface that the
rules let be used there for that reason, and for a time. It is the only one that its holder has
until somebody else has reviewed it, which can be done once it is over.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from webapp.caching import invalidate
from webapp.db.scopes import PrincipalScope
from webapp.db.session import violated_constraint
from webapp.extensions import db
from webapp.grants.active import holder_tag, load_grants, read_active_grants
from webapp.grants.grant import Event, Grant
from webapp.grants.models import UNREVIEWED, GrantRow
from webapp.grants.notices import outbox as notices
from webapp.http.errors import Conflict, Forbidden, NotFound
from webapp.identity.principal import PlatformRole, Principal
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
from webapp.scope.headers import Reason

MINUTES = 60
"""How long an incident lasts where the rules do not say."""

REVIEWERS: frozenset[PlatformRole] = frozenset({"auditor", "owner"})

Note = Callable[[Principal, Surface, Target, Reason | None, Decision], UUID]

_SURFACE = Surface("grants.break_glass", frozenset(), frozenset(), changes=True)


def break_glass(
    principal: Principal, target: Target, reason: Reason | None, ruled: RulesOutcome, note: Note
) -> Decision:
    """What becomes of an access that the rules allow by break-glass.

    Where that opens an incident, it is committed when this returns, and `note` has recorded it
    before. Raises what `note` does, and then nothing is open.
    """
    if isinstance(target, TenantTarget) and target.tenant_id is None:
        return Allowed(ruled)  # what is not there takes no glass to access
    incident = _unreviewed(read_active_grants(principal.id))
    if incident is None:
        incident = _open(principal, target, reason, ruled, note)
    refusal = _refusal(incident, target)
    if refusal is not None:
        return Denied(refusal, RulesOutcome(refusal, policy_version=ruled.policy_version))
    if set(_tenants_bypassed(target, ruled)) - set(incident.bypassed_approvals):
        _widen(principal, incident, _tenants_bypassed(target, ruled))
    return Allowed(replace(ruled, grants=(incident.id,)))


def may_review(principal: Principal, incident: Grant | GrantRow) -> Allowed | Denied:
    """Whether somebody may say what has been found about it: never one's own."""
    if incident.principal_id == principal.id:
        return Denied("Somebody else must review the glass that you broke.")
    if not (principal.platform_roles & REVIEWERS or _administers(principal, incident.tenant_id)):
        return Denied("None of your roles may review it.")
    return Allowed(RulesOutcome("", grants=(incident.id,)))


def review(principal: Principal, grant_id: UUID, text: str) -> Grant:
    """Say what somebody else has found about an incident that is over.

    Only then may its holder use break-glass again. Raises `NotFound`, `Forbidden` and `Conflict`.
    """
    row = db.session.get(GrantRow, grant_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound("There is no such grant.")
    if row.kind != "break_glass":
        raise Conflict("Only break-glass is reviewed.")
    decision = may_review(principal, row)
    if isinstance(decision, Denied):
        raise Forbidden(decision.detail)
    if row.reviewed_at is not None:
        raise Conflict(f"It has been reviewed by {row.reviewed_by}.")
    now = datetime.now(UTC)
    if row.state == "approved" and row.ends_at > now:
        raise Conflict("It is still open: let it end, or revoke it, before it is reviewed.")
    row.reviewed_at, row.reviewed_by, row.review = now, principal.email, text
    row.version += 1
    return _changed("reviewed", row)


def _unreviewed(held: Iterable[Grant]) -> Grant | None:
    broken = (g for g in held if g.kind == "break_glass" and g.reviewed_at is None)
    return next(broken, None)


def _open(
    principal: Principal, target: Target, reason: Reason | None, ruled: RulesOutcome, note: Note
) -> Grant:
    """A new incident, or the one that another request opens at the same time."""
    now, minutes = datetime.now(UTC), ruled.minutes or MINUTES
    bypassed_approvals = _tenants_bypassed(target, ruled)
    row = GrantRow(
        id=uuid7(),
        tenant_id=_tenant_of(target),
        kind="break_glass",
        principal_id=principal.id,
        principal_email=principal.email,
        surfaces=["*"],
        reason_code=BREAK_GLASS,
        ticket=reason.ticket if reason else None,
        note=reason.note if reason else None,
        minutes=minutes,
        rule_ids=list(ruled.rules),
        bypassed_approvals=bypassed_approvals,
        state="approved",
        requested_at=now,
        starts_at=now,
        ends_at=now + timedelta(minutes=minutes),
        version=1,
    )
    with db.session.scoped(PrincipalScope(principal.id)):
        db.session.add(row)
        try:
            incident = _changed("break_glass", row, bypassed_approvals)
        except IntegrityError as error:
            if violated_constraint(error) != UNREVIEWED:
                raise
            db.session.rollback()
            theirs = _unreviewed(load_grants(GrantRow.principal_id == principal.id))
            if theirs is None:
                raise
            return theirs
        note(principal, _SURFACE, target, reason, Allowed(replace(ruled, grants=(incident.id,))))
        db.session.commit()
    notices.send_soon()
    return incident


def _widen(principal: Principal, incident: Grant, bypassed_approvals: list[UUID]) -> None:
    """Tell the tenants whose approvals it does without only now, by an access to another
    surface."""
    with db.session.scoped(PrincipalScope(principal.id)):
        row = db.session.get_one(GrantRow, incident.id, with_for_update=True)
        others = [
            tenant_id for tenant_id in bypassed_approvals if tenant_id not in row.bypassed_approvals
        ]
        if others:
            row.bypassed_approvals = [*row.bypassed_approvals, *others]
            row.version += 1
            _changed("break_glass", row, others)
            db.session.commit()
    notices.send_soon()


def _changed(event: Event, row: GrantRow, tenants: Iterable[UUID] = ()) -> Grant:
    db.session.flush()
    (grant,) = load_grants(GrantRow.id == row.id)
    notices.tell(event, grant, tenants)
    invalidate(holder_tag(row.principal_id))
    return grant


def _refusal(incident: Grant, target: Target) -> str | None:
    where = incident.tenant or "all tenants"
    if not incident.is_open(datetime.now(UTC)):
        return f"You have break-glass for {where} before. Somebody else must review that first."
    if incident.tenant_id != _tenant_of(target):
        return (
            f"You have break-glass for {where}. Once that is over, somebody else must review it"
            " before you can break it elsewhere."
        )
    return None


def _tenant_of(target: Target) -> UUID | None:
    return target.tenant_id if isinstance(target, TenantTarget) else None


def _tenants_bypassed(target: Target, ruled: RulesOutcome) -> list[UUID]:
    """Of an access to all of them; the one of an access to one is told as the incident's own."""
    if isinstance(target, TenantTarget):
        return []
    return [tenant_id for tenant_id in ruled.bypassed_approvals if tenant_id is not None]


def _administers(principal: Principal, tenant_id: UUID | None) -> bool:
    return any(m.tenant_id == tenant_id and m.role == "admin" for m in principal.memberships)
