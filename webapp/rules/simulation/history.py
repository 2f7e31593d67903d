"""The history of accesses that rules decided, read from the ledger to be decided again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import FromClause, Select, select, tuple_, union_all

from webapp.audit.event import NOBODY
from webapp.audit.models import EVERY_TENANT, AuditEventRow
from webapp.db.scopes import TenantScope
from webapp.extensions import db
from webapp.http.pagination import read_in_index_order
from webapp.rules.engine.request import AuthorizationRequest

PAGE = 1000
"""Events that are looked at in one query."""

_Position = tuple[datetime, UUID]
"""The moment and the id of an event."""


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


@dataclass(frozen=True)
class HistoryPage:
    """Events that were looked at together, and the accesses among them that rules decided."""

    accesses: Sequence[PastAccess]
    events: int
    """How many events were looked at."""
    reaches: datetime
    """The moment of the last of them, which is the oldest."""


def read_history(since: datetime) -> Iterator[HistoryPage]:
    """Read the elevations that the session's scope sees, also changes, the newest first.

    Each page has its own query: what reads them may use the session in between.
    """
    before = None
    while rows := _read_page(since, before):
        last = rows[-1]
        before = last.occurred_at, last.id
        yield HistoryPage([*_accesses(rows)], len(rows), last.occurred_at.astimezone(UTC))
        if len(rows) < PAGE:
            return


def _read_page(since: datetime, before: _Position | None) -> Sequence[Any]:
    event = AuditEventRow.event
    newest = _newest(since, before)
    statement = (
        select(
            AuditEventRow.id,
            AuditEventRow.occurred_at,
            AuditEventRow.actor_id,
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
        .join(
            newest,
            (AuditEventRow.id == newest.c.id) & (AuditEventRow.occurred_at == newest.c.occurred_at),
        )
        .order_by(newest.c.occurred_at.desc(), newest.c.id.desc())
    )
    read_in_index_order(db.session)
    return db.session.execute(statement).all()


def _newest(since: datetime, before: _Position | None) -> FromClause:
    """The newest events before a position. In a tenant's scope they come from two indexed runs."""
    scope = db.session.scope
    if not isinstance(scope, TenantScope):
        return _run(since, before).subquery()
    runs = (_run(since, before, owner) for owner in (scope.tenant_id, EVERY_TENANT))
    merged = union_all(*runs).subquery()
    order = (merged.c.occurred_at.desc(), merged.c.id.desc())
    return select(merged).order_by(*order).limit(PAGE).subquery()


def _run(
    since: datetime, before: _Position | None, owner: UUID | None = None
) -> Select[datetime, UUID]:
    """The newest events of an owner, or of all, as one index has them in order."""
    key = (AuditEventRow.occurred_at, AuditEventRow.id)
    prefix = () if owner is None else (AuditEventRow.visible_to,)
    run = select(*key).where(AuditEventRow.occurred_at >= since)
    # Not `==`: PostgreSQL could then take the index without the owner, and walk past the others'.
    run = run.where(*(column >= owner for column in prefix), *(c <= owner for c in prefix))
    if before is not None:
        position = before if owner is None else (owner, *before)
        run = run.where(tuple_(*prefix, *key) < position)
    return run.order_by(*(column.desc() for column in (*prefix, *key))).limit(PAGE)


def _accesses(rows: Sequence[Any]) -> Iterator[PastAccess]:
    for row in rows:
        if row.reason_code is None:
            continue
        roles: Sequence[str] = row.actor["roles"]
        if _was_decided_by_rules(row, roles):
            yield _access(row, roles)


def _was_decided_by_rules(row: Any, roles: Sequence[str]) -> bool:
    """Whether rules decided an access.

    They do not in the actor's own tenant, nor if none of the actor's roles may elevate at all, nor
    of what an operator or Sightline itself did.
    """
    if row.actor_id == NOBODY:
        return False
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
