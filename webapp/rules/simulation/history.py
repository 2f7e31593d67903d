"""The history of accesses that rules decided, read from the ledger to be decided again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select

from webapp.audit.models import AuditEventRow
from webapp.extensions import db
from webapp.rules.engine.request import AuthorizationRequest

BATCH = 1000


@dataclass(frozen=True)
class PastAccess:
    """An access that the ledger has a record of."""

    id: UUID
    """The id of its audit event."""
    at: datetime
    request: AuthorizationRequest
    everywhere: bool
    """Whether it was an access to all tenants."""
    tenant_id: UUID | None
    """`None` for all tenants, and for a tenant that does not exist."""
    approved: bool
    """Whether grants approved it."""


def read_history(since: datetime) -> Iterator[PastAccess]:
    """Read the elevations that the session's scope sees, also changes, the newest first."""
    event = AuditEventRow.event
    statement = (
        select(
            AuditEventRow.id,
            AuditEventRow.occurred_at,
            AuditEventRow.actor_email,
            AuditEventRow.surface,
            AuditEventRow.reason_code,
            AuditEventRow.ticket,
            AuditEventRow.scope_kind,
            AuditEventRow.tenant,
            AuditEventRow.tenant_id,
            AuditEventRow.effect,
            event["actor"].label("actor"),
            event["request"]["ip"].label("ip"),
            event["decision"]["grant_ids"].label("grant_ids"),
            event["decision"]["policy_version"].label("policy_version"),
        )
        .where(
            AuditEventRow.occurred_at >= since,
            AuditEventRow.kind.in_(("access", "change")),
            AuditEventRow.reason_code.is_not(None),
        )
        .order_by(AuditEventRow.occurred_at.desc(), AuditEventRow.id.desc())
        .execution_options(yield_per=BATCH)
    )
    for row in db.session.execute(statement):
        roles: Sequence[str] = row.actor["roles"]
        if _was_decided_by_rules(row, roles):
            yield _access(row, roles)


def _was_decided_by_rules(row: Any, roles: Sequence[str]) -> bool:
    """Whether rules decided an access.

    They do not in the actor's own tenant, nor if none of the actor's roles may elevate at all.
    """
    in_own_tenant = row.tenant is not None and any(r.startswith(f"{row.tenant}:") for r in roles)
    refused_by_role = row.effect == "denied" and row.policy_version is None
    return not in_own_tenant and not refused_by_role


def _access(row: Any, roles: Sequence[str]) -> PastAccess:
    request = AuthorizationRequest(
        email=row.actor_email,
        # A role in a tenant is recorded as `tenant:role`; rules name only the role.
        roles=frozenset(role.rpartition(":")[2] for role in roles),
        mfa=row.actor.get("mfa", False),
        surface=row.surface,
        reason=row.reason_code,
        ticket=row.ticket,
        ip=row.ip,
    )
    return PastAccess(
        id=row.id,
        at=row.occurred_at.astimezone(UTC),
        request=request,
        everywhere=row.scope_kind == "global",
        tenant_id=row.tenant_id,
        approved=bool(row.grant_ids),
    )
