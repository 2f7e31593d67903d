"""The accesses that rules had a say in, out of the ledger, for them to be asked again."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from webapp.audit.models import AuditEventRow
from webapp.extensions import db
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.simulation.history import PastAccess

BATCH = 1000


def read_past_accesses(since: datetime) -> Iterator[PastAccess]:
    """Elevations that the session's scope sees, the newest first; changes are accesses too."""
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
        if _was_ruled(row, roles):
            yield _access(row, roles)


def _was_ruled(row: Any, roles: Sequence[str]) -> bool:
    """Rules have no say in one's own tenant, nor where no role of somebody's may elevate at all."""
    at_home = row.tenant is not None and any(r.startswith(f"{row.tenant}:") for r in roles)
    refused_unasked = row.effect == "denied" and row.policy_version is None
    return not at_home and not refused_unasked


def _access(row: Any, roles: Sequence[str]) -> PastAccess:
    request = AuthorizationRequest(
        email=row.actor_email,
        # Those held in tenants are recorded with the tenant; rules name them without.
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
