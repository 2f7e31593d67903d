"""Who there is and what they hold, as values for an operator to read."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select

from webapp.directory.service import get_user
from webapp.extensions import db
from webapp.identity.models import ApiToken, MembershipRow, PlatformRoleRow, PrincipalRow, Tenant


@dataclass(frozen=True)
class TenantEntry:
    slug: str
    name: str
    id: UUID
    created_at: datetime


@dataclass(frozen=True)
class UserEntry:
    email: str
    roles: tuple[str, ...]
    """As in `Principal.roles`: tenants' as `slug:role`."""
    id: UUID
    created_at: datetime


@dataclass(frozen=True)
class TokenEntry:
    """A token without its secret, which nobody keeps."""

    id: UUID
    user: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute: a busy token is noted once in one, by each process."""


def list_tenants() -> list[TenantEntry]:
    rows = db.session.scalars(select(Tenant).order_by(Tenant.slug))
    return [TenantEntry(row.slug, row.name, row.id, row.created_at) for row in rows]


def list_users() -> list[UserEntry]:
    held = _roles_by_principal()
    rows = db.session.scalars(select(PrincipalRow).order_by(PrincipalRow.email))
    return [UserEntry(row.email, tuple(held[row.id]), row.id, row.created_at) for row in rows]


def list_tokens(email: str | None = None) -> list[TokenEntry]:
    """Newest first; raises `NotFound` for a user who is not there."""
    query = select(ApiToken, PrincipalRow.email).join(
        PrincipalRow, PrincipalRow.id == ApiToken.principal_id
    )
    if email is not None:
        query = query.where(PrincipalRow.id == get_user(email).id)
    rows = db.session.execute(query.order_by(ApiToken.created_at.desc(), ApiToken.id))
    return [
        TokenEntry(
            id=token.id,
            user=owner,
            name=token.name,
            created_at=token.created_at,
            expires_at=token.expires_at,
            revoked_at=token.revoked_at,
            last_used_at=token.last_used_at,
        )
        for token, owner in rows
    ]


def _roles_by_principal() -> defaultdict[UUID, list[str]]:
    """Platform roles first, each part sorted."""
    platform = db.session.execute(
        select(PlatformRoleRow.principal_id, PlatformRoleRow.role).order_by(PlatformRoleRow.role)
    )
    tenants = db.session.execute(
        select(MembershipRow.principal_id, Tenant.slug, MembershipRow.role)
        .join(Tenant, Tenant.id == MembershipRow.tenant_id)
        .order_by(Tenant.slug)
    )
    held: defaultdict[UUID, list[str]] = defaultdict(list)
    for principal_id, role in platform:
        held[principal_id].append(role)
    for principal_id, slug, role in tenants:
        held[principal_id].append(f"{slug}:{role}")
    return held
