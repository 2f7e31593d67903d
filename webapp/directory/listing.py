"""Tenants, users and tokens as values for an operator to read."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, func, select

from webapp.directory.service import get_tenant, get_user
from webapp.extensions import db
from webapp.identity.models import ApiToken, MembershipRow, PlatformRoleRow, PrincipalRow, Tenant
from webapp.rules.models import RuleRow

ALL = ("*",)
"""How a token shows that it is bound to all tenants."""


@dataclass(frozen=True)
class TenantEntry:
    slug: str
    name: str
    id: UUID
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class UserEntry:
    email: str
    roles: tuple[str, ...]
    """As in `Principal.roles`: a role in a tenant is `slug:role`."""
    id: UUID
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class TokenEntry:
    """A token without its secret, which is stored nowhere."""

    id: UUID
    user: str
    made_in: str | None
    """The slug of the tenant that it was made in, and is good in; `None` for the platform's."""
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """Up to a minute too early: each process reports the use of a token once a minute."""
    surfaces: tuple[str, ...]
    """Of a service's token: what it may ask about. The same holds for the next three."""
    tenants: tuple[str, ...]
    """Slugs, or `ALL`."""
    break_glass: bool
    reports_mfa: bool


@dataclass(frozen=True)
class Member:
    """A user's membership in a tenant."""

    tenant: str
    user: str
    role: str


@dataclass(frozen=True)
class TenantDetails:
    slug: str
    name: str
    id: UUID
    created_at: datetime
    ended_at: datetime | None
    members: tuple[Member, ...]


@dataclass(frozen=True)
class UserDetails:
    email: str
    id: UUID
    created_at: datetime
    ended_at: datetime | None
    platform_roles: tuple[str, ...]
    memberships: tuple[Member, ...]
    tokens: tuple[TokenEntry, ...]


@dataclass(frozen=True)
class NamingRule:
    """A rule that names a user's address."""

    tenant: str | None
    name: str
    id: UUID


def list_tenants() -> list[TenantEntry]:
    rows = db.session.scalars(select(Tenant).order_by(Tenant.slug))
    return [TenantEntry(row.slug, row.name, row.id, row.created_at, row.ended_at) for row in rows]


def list_users() -> list[UserEntry]:
    held = _roles_by_principal()
    rows = db.session.scalars(select(PrincipalRow).order_by(PrincipalRow.email))
    return [
        UserEntry(row.email, tuple(held[row.id]), row.id, row.created_at, row.ended_at)
        for row in rows
    ]


def show_tenant(slug: str) -> TenantDetails:
    """Read a tenant and its members; raises `NotFound`."""
    row = get_tenant(slug)
    members = _members(MembershipRow.tenant_id == row.id)
    return TenantDetails(row.slug, row.name, row.id, row.created_at, row.ended_at, members)


def show_user(email: str) -> UserDetails:
    """Read a user with roles, memberships and tokens; raises `NotFound`."""
    row = get_user(email)
    roles = select(PlatformRoleRow.role).where(PlatformRoleRow.principal_id == row.id)
    return UserDetails(
        email=row.email,
        id=row.id,
        created_at=row.created_at,
        ended_at=row.ended_at,
        platform_roles=tuple(db.session.scalars(roles.order_by(PlatformRoleRow.role))),
        memberships=_members(MembershipRow.principal_id == row.id),
        tokens=tuple(list_tokens(row.email)),
    )


def list_naming_rules(email: str) -> list[NamingRule]:
    """The rules, of all owners in the scope, that name this address among their subjects."""
    quoted = orjson.dumps(email.lower()).decode()
    users = func.lower(RuleRow.subjects["users"].astext)
    rows = db.session.execute(
        select(Tenant.slug, RuleRow.name, RuleRow.id)
        .select_from(RuleRow)
        .outerjoin(Tenant, Tenant.id == RuleRow.tenant_id)
        .where(RuleRow.deleted_at.is_(None), users.contains(quoted, autoescape=True))
        .order_by(RuleRow.name, RuleRow.id)
    )
    return [NamingRule(tenant, name, rule_id) for tenant, name, rule_id in rows]


def list_tokens(email: str | None = None) -> list[TokenEntry]:
    """Read the tokens of all users or of one, newest first; raises `NotFound`."""
    query = (
        select(ApiToken, PrincipalRow.email, Tenant.slug)
        .join(PrincipalRow, PrincipalRow.id == ApiToken.principal_id)
        .outerjoin(Tenant, Tenant.id == ApiToken.tenant_id)
    )
    if email is not None:
        query = query.where(PrincipalRow.id == get_user(email).id)
    rows = db.session.execute(query.order_by(ApiToken.created_at.desc(), ApiToken.id)).all()
    slugs = _slugs_of({tenant for token, *_ in rows for tenant in token.tenant_ids or ()})
    return [
        TokenEntry(
            id=token.id,
            user=owner,
            made_in=made_in,
            name=token.name,
            created_at=token.created_at,
            expires_at=token.expires_at,
            revoked_at=token.revoked_at,
            last_used_at=token.last_used_at,
            surfaces=tuple(token.surfaces),
            tenants=_tenants_of(token, slugs),
            break_glass=token.break_glass,
            reports_mfa=token.reports_mfa,
        )
        for token, owner, made_in in rows
    ]


def _slugs_of(tenant_ids: Iterable[UUID]) -> dict[UUID, str]:
    named = select(Tenant.id, Tenant.slug).where(Tenant.id.in_(list(tenant_ids)))
    return dict(iter(db.session.execute(named)))


def _tenants_of(token: ApiToken, slugs: Mapping[UUID, str]) -> tuple[str, ...]:
    if token.tenant_ids is None:
        return ALL
    return tuple(sorted(slugs[tenant_id] for tenant_id in token.tenant_ids))


def _members(condition: ColumnElement[bool]) -> tuple[Member, ...]:
    rows = db.session.execute(
        select(Tenant.slug, PrincipalRow.email, MembershipRow.role)
        .join(Tenant, Tenant.id == MembershipRow.tenant_id)
        .join(PrincipalRow, PrincipalRow.id == MembershipRow.principal_id)
        .where(condition)
        .order_by(Tenant.slug, PrincipalRow.email)
    )
    return tuple(Member(tenant, user, role) for tenant, user, role in rows)


def _roles_by_principal() -> defaultdict[UUID, list[str]]:
    """The roles of each principal: platform roles first, each part sorted."""
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
