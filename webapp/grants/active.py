"""Active grants of principals, which decisions need. Each process caches them while current."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from flask import Flask, current_app
from sqlalchemy import ColumnElement, or_, select

from webapp.caching import GenerationCache, read_generations
from webapp.db.scopes import PolicyScope
from webapp.db.session import in_utc
from webapp.extensions import db
from webapp.grants.grant import Approval, Grant
from webapp.grants.models import GrantApprovalRow, GrantRow
from webapp.identity.models import Tenant

_EXTENSION = "sightline.active"


def holder_tag(principal_id: UUID) -> str:
    """The cache tag that every change to the principal's grants invalidates."""
    return f"grants:{principal_id}"


def init_app(app: Flask) -> None:
    app.extensions[_EXTENSION] = GenerationCache()


def read_active_grants(principal_id: UUID) -> tuple[Grant, ...]:
    """Return the principal's active grants and unreviewed break-glass incidents.

    A cached grant may have ended since it was read: compare its times before you use it.
    """
    cache: GenerationCache = current_app.extensions[_EXTENSION]
    tag = holder_tag(principal_id)
    generation = read_generations((tag,))[tag]
    grants: tuple[Grant, ...] | None = cache.get(principal_id, generation)
    if grants is not None:
        return grants
    in_force = (GrantRow.state == "approved") & (GrantRow.ends_at > datetime.now(UTC))
    unreviewed = (GrantRow.kind == "break_glass") & GrantRow.reviewed_at.is_(None)
    with db.scoped(PolicyScope()):
        grants = load_grants(GrantRow.principal_id == principal_id, or_(in_force, unreviewed))
    cache.put(principal_id, generation, grants)
    return grants


def load_grants(*conditions: ColumnElement[bool]) -> tuple[Grant, ...]:
    """Load the grants that meet the conditions and that the session's scope sees."""
    found = db.session.execute(
        select(GrantRow, Tenant.slug)
        .outerjoin(Tenant, Tenant.id == GrantRow.tenant_id)
        .where(*conditions)
        .order_by(GrantRow.requested_at, GrantRow.id)
    ).all()
    approvals = load_approvals(row.id for row, _ in found)
    return tuple(grant_of(row, slug, approvals[row.id]) for row, slug in found)


def load_approvals(ids: Iterable[UUID]) -> defaultdict[UUID, list[Approval]]:
    """Load the approvals of these grants, by grant id, the oldest first."""
    rows = db.session.scalars(
        select(GrantApprovalRow)
        .where(GrantApprovalRow.grant_id.in_(list(ids)))
        .order_by(GrantApprovalRow.approved_at, GrantApprovalRow.id)
    )
    approvals: defaultdict[UUID, list[Approval]] = defaultdict(list)
    for row in rows:
        approvals[row.grant_id].append(
            Approval(
                row.approver_id,
                row.approver_email,
                tuple(row.roles),
                row.approved_at.astimezone(UTC),
            )
        )
    return approvals


def grant_of(row: GrantRow, tenant: str | None, approvals: Iterable[Approval]) -> Grant:
    return Grant(
        id=row.id,
        kind=row.kind,  # type: ignore[arg-type]  # the table's constraint names the Literal's
        principal_id=row.principal_id,
        email=row.principal_email,
        tenant_id=row.tenant_id,
        tenant=tenant,
        surfaces=tuple(row.surfaces),
        reason=row.reason_code,
        ticket=row.ticket,
        note=row.note,
        minutes=row.minutes,
        rule_ids=tuple(row.rule_ids),
        state=row.state,  # type: ignore[arg-type]  # the same
        requested_at=row.requested_at.astimezone(UTC),
        starts_at=in_utc(row.starts_at),
        ends_at=row.ends_at.astimezone(UTC),
        closed_at=in_utc(row.closed_at),
        closed_by=row.closed_by,
        reviewed_at=in_utc(row.reviewed_at),
        reviewed_by=row.reviewed_by,
        review=row.review,
        version=row.version,
        approvals=tuple(approvals),
        bypassed_approvals=tuple(row.bypassed_approvals),
    )
