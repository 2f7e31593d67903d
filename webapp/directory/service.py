"""The administration of tenants, users, their roles and their tokens.

What is changed here counts from the next request on, in every process. The caller commits.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from webapp.caching import invalidate
from webapp.extensions import db
from webapp.http.errors import Conflict, Invalid, NotFound
from webapp.identity import tokens
from webapp.identity.lookup import IDENTITY_TAG
from webapp.identity.models import (
    ApiToken,
    MembershipRow,
    PlatformRoleRow,
    PrincipalRow,
    Tenant,
)
from webapp.identity.principal import MAX_EMAIL, PlatformRole, TenantRole

MAX_NAME = 200

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")

Row = TypeVar("Row", Tenant, PrincipalRow)


@dataclass(frozen=True)
class NewToken:
    id: UUID
    secret: str
    """The token itself: shown once, kept nowhere."""


def create_tenant(slug: str, name: str) -> Tenant:
    if not _SLUG.fullmatch(slug):
        raise _invalid("slug", "must be 1 to 63 of a-z, 0-9 and -, and not begin with -")
    return _add(Tenant(slug=slug, name=_name(name)), f"There is a tenant {slug} already.")


def create_user(email: str, platform_roles: Iterable[PlatformRole] = ()) -> PrincipalRow:
    email = email.lower()
    if not (_EMAIL.fullmatch(email) and email.isprintable() and len(email) <= MAX_EMAIL):
        raise _invalid("email", "must be an e-mail address")
    user = _add(PrincipalRow(email=email), f"There is a user {email} already.")
    for role in set(platform_roles):
        db.session.add(PlatformRoleRow(principal_id=user.id, role=role))
    db.session.flush()
    return user


def set_membership(email: str, slug: str, role: TenantRole) -> None:
    user, tenant = get_user(email), get_tenant(slug)
    membership = db.session.get(MembershipRow, (tenant.id, user.id))
    if membership is None:
        membership = MembershipRow(tenant_id=tenant.id, principal_id=user.id)
        db.session.add(membership)
    membership.role = role
    _changed()


def end_membership(email: str, slug: str) -> None:
    user, tenant = get_user(email), get_tenant(slug)
    membership = db.session.get(MembershipRow, (tenant.id, user.id))
    if membership is None:
        raise NotFound(f"{email} is no member of {slug}.")
    db.session.delete(membership)
    _changed()


def set_platform_role(email: str, role: PlatformRole, *, held: bool) -> None:
    user = get_user(email)
    row = db.session.get(PlatformRoleRow, (user.id, role))
    if held and row is None:
        db.session.add(PlatformRoleRow(principal_id=user.id, role=role))
    elif not held:
        if row is None:
            raise NotFound(f"{email} does not have the role {role}.")
        db.session.delete(row)
    _changed()


def create_token(
    email: str, name: str, expires_at: datetime | None = None, *, mfa: bool = False
) -> NewToken:
    """`mfa` says that the person has shown a second factor for it."""
    user = get_user(email)
    secret = tokens.make_secret()
    token = ApiToken(
        principal_id=user.id,
        name=_name(name),
        token_hash=tokens.digest(secret),
        expires_at=expires_at,
        mfa=mfa,
    )
    db.session.add(token)
    _changed()
    return NewToken(token.id, secret)


def revoke_token(token_id: UUID) -> None:
    """Raises `NotFound` for a token that is unknown or was revoked before."""
    revoked = db.session.execute(
        update(ApiToken)
        .where(ApiToken.id == token_id, ApiToken.revoked_at.is_(None))
        .values(revoked_at=datetime.now(UTC))
        .returning(ApiToken.id)
    )
    if revoked.first() is None:
        raise NotFound("There is no such token, or it was revoked before.")
    _changed()


def get_user(email: str) -> PrincipalRow:
    user = db.session.scalar(select(PrincipalRow).where(PrincipalRow.email == email.lower()))
    if user is None:
        raise NotFound(f"There is no user {email}.")
    return user


def get_tenant(slug: str) -> Tenant:
    tenant = db.session.scalar(select(Tenant).where(Tenant.slug == slug))
    if tenant is None:
        raise NotFound(f"There is no tenant {slug}.")
    return tenant


def _add(row: Row, taken: str) -> Row:
    db.session.add(row)
    _changed(taken)
    return row


def _changed(taken: str = "Somebody made the same change just now.") -> None:
    try:
        db.session.flush()
    except IntegrityError as error:
        raise Conflict(taken) from error
    invalidate(IDENTITY_TAG)


def _name(name: str) -> str:
    if not (name.isprintable() and 0 < len(name) <= MAX_NAME):
        raise _invalid("name", f"must be 1 to {MAX_NAME} printable characters")
    return name


def _invalid(field: str, problem: str) -> Invalid:
    return Invalid(f"The {field} {problem}.", {field: [problem]})
