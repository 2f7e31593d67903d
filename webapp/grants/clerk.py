"""What happens to grants without a request: they expire, and an operator may end them.

Runs in the clerk's scope. What is done is recorded in the transaction that does it, or is not done.
"""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select
from uuid_utils.compat import uuid7

from webapp.audit import ledger
from webapp.audit.event import (
    Actor,
    AuditEvent,
    EventDecision,
    EventRequest,
    EventScope,
    Reason,
)
from webapp.extensions import db
from webapp.grants import notices, service
from webapp.grants.grant import Grant
from webapp.grants.models import GrantRow
from webapp.identity.models import Tenant

BATCH = 100
"""Grants that one transaction ends."""

NOBODY = UUID(int=0)
SIGHTLINE = Actor(email="sightline", id=NOBODY, roles=(), token_id=None)
OPERATOR = Actor(email="operator", id=NOBODY, roles=(), token_id=None)
"""Somebody at the machine."""


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
    notices.tell("expired", grant)
    return grant


def _event(
    surface: str, actor: Actor, grant: Grant, at: datetime, request: EventRequest
) -> AuditEvent:
    return AuditEvent(
        actor=actor,
        decision=EventDecision("allowed", grant_ids=(grant.id,)),
        http_status=None,
        id=uuid7(),
        kind="change",
        occurred_at=at,
        outcome="served",
        reason=Reason(code=grant.reason, note=grant.note, ticket=grant.ticket),
        repeats=1,
        request=request,
        rows=1,
        scope=EventScope(
            kind="global" if grant.tenant_id is None else "tenant",
            tenant=grant.tenant,
            tenant_id=grant.tenant_id,
        ),
        surface=surface,
    )


def origin(method: str, path: str, request_id: str) -> EventRequest:
    """What an event tells of its request, where there was none."""
    return EventRequest(id=request_id, ip=None, method=method, path=path, user_agent=None)
