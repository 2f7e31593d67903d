"""Reviewing break-glass: somebody else says what an incident was, once it is over."""

from datetime import UTC, datetime
from uuid import UUID

from webapp.extensions import db
from webapp.grants.grant import Grant
from webapp.grants.models import GrantRow
from webapp.grants.service import changed
from webapp.http.errors import Conflict, Forbidden, NotFound
from webapp.identity.principal import PlatformRole, Principal
from webapp.scope.decision import Allowed, Denied, RulesOutcome

REVIEWERS: frozenset[PlatformRole] = frozenset({"auditor", "owner"})


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
    return changed("reviewed", row)


def _administers(principal: Principal, tenant_id: UUID | None) -> bool:
    return any(m.tenant_id == tenant_id and m.role == "admin" for m in principal.memberships)
