"""What happens to grants without a request: they expire, and an operator may end them.

Runs in the expiry's scope. What is done is recorded in the transaction that does it, or is not
done.
"""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select

from webapp.audit import append as ledger
from webapp.audit import operation
from webapp.audit.event import Actor, AuditEvent, EventRequest, EventScope, Reason
from webapp.audit.operation import OPERATOR, SIGHTLINE
from webapp.extensions import db
from webapp.grants import service
from webapp.grants.grant import Grant
from webapp.grants.models import GrantRow
from webapp.grants.notices import outbox as notices
from webapp.identity.models import Tenant

BATCH = 100
"""Grants that one transaction ends."""


def expire_over(request: EventRequest) -> int:
    """End some of what is over, and return how many that were: none when nothing is left, or
    somebody else is at it."""
    over = (
        select(GrantRow, Tenant.slug)
        .outerjoin(Tenant, Tenant.id == GrantRow.tenant_id)
        .where(GrantRow.state.in_(("requested", "approved")), GrantRow.ends_at <= datetime.now(UTC))
        .order_by(GrantRow.ends_at, GrantRow.id)
        .limit(BATCH)
        .with_for_update(of=GrantRow, skip_locked=True)
    )
    expired = [_expire(row, tenant) for row, tenant in db.session.execute(over)]
    ledger.append_own(
        db.session,
        [_event("grants.expire", SIGHTLINE, grant, grant.ends_at, request) for grant in expired],
    )
    return len(expired)


def revoke(grant_id: UUID, request: EventRequest) -> Grant:
    """As `service.revoke`, by the operator."""
    grant = service.revoke(grant_id, OPERATOR.email)
    event = _event("grants.revoke", OPERATOR, grant, datetime.now(UTC), request)
    ledger.append_own(db.session, [event])
    return grant


def _expire(row: GrantRow, tenant: str | None) -> Grant:
    row.state, row.closed_at = "expired", row.ends_at
    grant = service.keep(row, tenant)
    notices.enqueue("expired", grant)
    return grant


def _event(
    surface: str, actor: Actor, grant: Grant, at: datetime, request: EventRequest
) -> AuditEvent:
    everywhere = grant.tenant_id is None
    return operation.change(
        surface,
        request,
        actor=actor,
        scope=EventScope(
            kind="global" if everywhere else "tenant",
            tenant=grant.tenant,
            tenant_id=grant.tenant_id,
        ),
        at=at,
        reason=Reason(code=grant.reason, note=grant.note, ticket=grant.ticket),
        grants=(grant.id,),
    )
