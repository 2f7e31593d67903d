"""Expiry of grants, and revocation by an operator: changes that no HTTP request makes.

Callers enter `MaintenanceScope` and commit. Each change is recorded in its own transaction, so
neither exists without the other.
"""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select

from webapp.audit import append, operation
from webapp.audit.event import Actor, AuditEvent, EventRequest, Reason
from webapp.audit.operation import SIGHTLINE, operator
from webapp.extensions import db
from webapp.grants import service
from webapp.grants.grant import Grant
from webapp.grants.models import GrantRow
from webapp.grants.notices import outbox
from webapp.identity.models import Tenant

BATCH = 100
"""How many grants one transaction ends at most."""


def expire_over(request: EventRequest) -> int:
    """End up to `BATCH` grants and requests whose time is over, and return how many were ended.

    Grants that another transaction has locked are skipped.
    """
    statement = (
        select(GrantRow, Tenant.slug)
        .outerjoin(Tenant, Tenant.id == GrantRow.tenant_id)
        .where(GrantRow.state.in_(("requested", "approved")), GrantRow.ends_at <= datetime.now(UTC))
        .order_by(GrantRow.ends_at, GrantRow.id)
        .limit(BATCH)
        .with_for_update(of=GrantRow, skip_locked=True)
    )
    expired = [_expire(row, tenant) for row, tenant in db.session.execute(statement)]
    append.append_own(
        db.session,
        [_event("grants.expire", SIGHTLINE, grant, grant.ends_at, request) for grant in expired],
    )
    return len(expired)


def revoke(grant_id: UUID, request: EventRequest) -> Grant:
    """Revoke a grant as the operator, and record that. Raises what `service.revoke` raises."""
    actor = operator()
    grant = service.revoke(grant_id, actor.email)
    event = _event("grants.revoke", actor, grant, datetime.now(UTC), request)
    append.append_own(db.session, [event])
    return grant


def _expire(row: GrantRow, tenant: str | None) -> Grant:
    row.state, row.closed_at = "expired", row.ends_at
    grant = service.save(row, tenant)
    outbox.enqueue("expired", grant)
    return grant


def _event(
    surface: str, actor: Actor, grant: Grant, at: datetime, request: EventRequest
) -> AuditEvent:
    return operation.change(
        surface,
        request,
        actor=actor,
        scope=operation.tenant_scope(grant.tenant_id, grant.tenant),
        at=at,
        reason=Reason(code=grant.reason, note=grant.note, ticket=grant.ticket),
        grants=(grant.id,),
    )
