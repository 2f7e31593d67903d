"""Reviews of break-glass incidents: somebody else says what an incident was, once it is over."""

from datetime import UTC, datetime
from uuid import UUID

from webapp.extensions import db
from webapp.grants.grant import Grant
from webapp.grants.models import GrantRow
from webapp.grants.service import announce
from webapp.http.errors import Conflict, Forbidden, NotFound
from webapp.identity.principal import PlatformRole, Principal
from webapp.scope.decision import Allowed, Denied, RulesOutcome

REVIEWERS: frozenset[PlatformRole] = frozenset({"auditor", "owner"})


def may_review(principal: Principal, incident: Grant | GrantRow) -> Allowed | Denied:
    """Decide whether somebody may review an incident. Nobody reviews their own."""
    if incident.principal_id == principal.id:
        return Denied("Somebody else must review your use of break-glass.")
    if not (principal.platform_roles & REVIEWERS or _administers(principal, incident.tenant_id)):
        return Denied("None of your roles may review this use of break-glass.")
    return Allowed(RulesOutcome("", grants=(incident.id,)))


def review(principal: Principal, grant_id: UUID, text: str) -> Grant:
    """Store the review of an incident that is over. Then its holder may use break-glass again.

    Raises `NotFound`, `Forbidden` and `Conflict`.
    """
    row = db.session.get(GrantRow, grant_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound("There is no such grant.")
    if row.kind != "break_glass":
        raise Conflict("Only uses of break-glass are reviewed.")
    decision = may_review(principal, row)
    if isinstance(decision, Denied):
        raise Forbidden(decision.detail)
    if row.reviewed_at is not None:
        raise Conflict(f"{row.reviewed_by} has reviewed it already.")
    now = datetime.now(UTC)
    if row.state == "approved" and row.ends_at > now:
        raise Conflict("The incident is still open: let it end, or revoke it, before the review.")
    row.reviewed_at, row.reviewed_by, row.review = now, principal.email, text
    row.version += 1
    return announce("reviewed", row)


def _administers(principal: Principal, tenant_id: UUID | None) -> bool:
    return any(m.tenant_id == tenant_id and m.role == "admin" for m in principal.memberships)
