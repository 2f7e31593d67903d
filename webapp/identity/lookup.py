"""Principals by email and tenants by slug, cached in the process while they are current.

A cached value carries the generation of all identity data, and counts only while that generation is
the current one. A change invalidates it in every process, with the transaction that makes the
change.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import cast
from uuid import UUID

from flask import Flask, current_app
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.caching import GenerationCache, read_generations
from webapp.db.scopes import IdentityScope
from webapp.extensions import db
from webapp.http.errors import NotFound
from webapp.identity.models import ApiToken, MembershipRow, PlatformRoleRow, PrincipalRow, Tenant
from webapp.identity.principal import (
    NO_BINDINGS,
    Bindings,
    Membership,
    PlatformRole,
    Principal,
    TenantRole,
)

IDENTITY_TAG = "identity"
"""The cache tag of all tenants, principals, roles and tokens together."""


def init_app(app: Flask) -> None:
    app.extensions["identity"] = GenerationCache()
    app.extensions["identity.tenants"] = GenerationCache()
    app.extensions["identity.strangers"] = GenerationCache()


def remembered() -> GenerationCache:
    """This process's cache of principals, tenants and tokens."""
    cache: GenerationCache = current_app.extensions["identity"]
    return cache


def _strangers() -> GenerationCache:
    """The addresses that nobody has."""
    cache: GenerationCache = current_app.extensions["identity.strangers"]
    return cache


def find_principal(email: str, *, mfa: bool) -> Principal | None:
    """The principal with this address, for whom a service asks: without a credential of their own.

    `mfa` is what the service says about the second factor.
    """
    email = email.lower()
    generation = read_generations({IDENTITY_TAG})[IDENTITY_TAG]
    known: Principal | None = remembered().get(("principal", email), generation)
    if known is not None:
        return replace(known, mfa=mfa)
    if _strangers().get(email, generation):
        return None
    with db.scoped(IdentityScope()):
        row = db.session.scalar(select(PrincipalRow).where(PrincipalRow.email == email))
        if row is None:
            _strangers().put(email, generation, True)
            return None
        found = load_principal(db.session, row, token_id=None, mfa=mfa)
    remembered().put(("principal", email), generation, found)
    return found


def find_tenant_id(slug: str, asker: UUID | None = None) -> UUID | None:
    """The id of the tenant with this slug; `None` if there is none, or if it has ended.

    What is found is remembered for the one who asks, and so is that there is none. So nobody can
    tell by the time that it takes whether a tenant exists, or whether somebody else uses it.
    """
    generation = read_generations({IDENTITY_TAG})[IDENTITY_TAG]
    key = ("tenant", asker, slug)
    known: _Found | None = _tenants().get(key, generation)
    if known is not None:
        return known.tenant_id
    with db.scoped(IdentityScope()):
        tenant_id = db.session.scalar(
            select(Tenant.id).where(Tenant.slug == slug, Tenant.ended_at.is_(None))
        )
    _tenants().put(key, generation, _Found(tenant_id))
    return tenant_id


@dataclass(frozen=True)
class _Found:
    """What was found under a slug: also nothing."""

    tenant_id: UUID | None


def _tenants() -> GenerationCache:
    """Tenants by slug, kept apart so that guesses drive out no principals."""
    cache: GenerationCache = current_app.extensions["identity.tenants"]
    return cache


def require_tenant(slug: str) -> UUID:
    """The id of the tenant with this slug, also of one that has ended; raises `NotFound`."""
    with db.scoped(IdentityScope()):
        tenant_id = db.session.scalar(select(Tenant.id).where(Tenant.slug == slug))
    if tenant_id is None:
        raise NotFound(f"There is no tenant {slug}.")
    return tenant_id


def has_tenant(slug: str) -> bool:
    """Whether a tenant has this slug, or had it when it ended."""
    try:
        require_tenant(slug)
    except NotFound:
        return False
    return True


def has_user(email: str) -> bool:
    with db.scoped(IdentityScope()):
        found = select(PrincipalRow.id).where(PrincipalRow.email == email.lower())
        return db.session.scalar(found) is not None


def recall_tenant_id(slug: str, asker: UUID) -> UUID | None:
    """The id that `find_tenant_id` found last, which may be outdated: a hint, never an answer."""
    known = _tenants().entry(("tenant", asker, slug))
    return cast(_Found, known[1]).tenant_id if known is not None else None


def load_principal(
    session: Session,
    row: PrincipalRow,
    *,
    token_id: UUID | None,
    expires_at: datetime | None = None,
    mfa: bool,
    bindings: Bindings = NO_BINDINGS,
    only_in: UUID | None = None,
) -> Principal:
    """Read the principal of a row, with its current roles.

    With the id of a tenant, that is only the membership there, as a token has it that was made
    there.
    """
    held = select(PlatformRoleRow.role).where(PlatformRoleRow.principal_id == row.id)
    roles = session.scalars(held) if only_in is None else ()
    joined = (
        select(MembershipRow.tenant_id, Tenant.slug, MembershipRow.role)
        .join(Tenant, Tenant.id == MembershipRow.tenant_id)
        .where(MembershipRow.principal_id == row.id, Tenant.ended_at.is_(None))
        .order_by(Tenant.slug)
    )
    if only_in is not None:
        joined = joined.where(MembershipRow.tenant_id == only_in)
    memberships = session.execute(joined)
    return Principal(
        id=row.id,
        email=row.email,
        platform_roles=frozenset(cast(Iterable[PlatformRole], roles)),
        memberships=tuple(
            Membership(tenant_id, slug, cast(TenantRole, role))
            for tenant_id, slug, role in memberships
        ),
        token_id=token_id,
        expires_at=expires_at,
        mfa=mfa,
        ended=row.ended_at is not None,
        bindings=bindings,
    )


def count_owners(session: Session) -> int:
    """How many people hold the role `owner`, and a token that is good now."""
    row, token = PlatformRoleRow, ApiToken
    never_ends = token.expires_at.is_(None)
    is_good = (
        token.tenant_id.is_(None)
        & token.revoked_at.is_(None)
        & (never_ends | (token.expires_at > func.now()))
    )
    found = (
        select(func.count(func.distinct(row.principal_id)))
        .join(token, token.principal_id == row.principal_id)
        .where(row.role == "owner", is_good)
    )
    return session.scalars(found).one()
