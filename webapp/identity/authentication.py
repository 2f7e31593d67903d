"""Who is asking, and the administration of tenants, principals, memberships and tokens.

A verified token is remembered in the process together with the generation of everything that
identity rests on, and counts only while that generation is the current one: a revocation ends it
in every process with the transaction that made it.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar, cast
from uuid import UUID

from celery import Celery
from flask import Flask
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from webapp.caching import GenerationCache, invalidate, read_generations
from webapp.context import current_application
from webapp.db.scopes import IdentityScope
from webapp.extensions import db
from webapp.http.errors import Conflict, Invalid, NotFound, Unauthenticated
from webapp.identity.last_use import TOUCH_TASK, LastUse
from webapp.identity.models import (
    ApiToken,
    MembershipRow,
    PlatformRoleRow,
    PrincipalRow,
    Tenant,
)
from webapp.identity.principal import Membership, PlatformRole, Principal, TenantRole

TAG = "identity"
TOKEN_PREFIX = "slt_"  # noqa: S105 - the public prefix that every token has
MAX_NAME = 200
MAX_EMAIL = 320

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")

Row = TypeVar("Row", Tenant, PrincipalRow)

Expect = Callable[[Principal | None], Iterable[str]]
"""The cache tags that a request will need beside the token's own, fetched in the same round trip,
as far as can be said from the principal that the token stood for when last verified here: a hint,
never an answer."""


@dataclass(frozen=True)
class NewToken:
    id: UUID
    secret: str
    """The token itself: shown once, kept nowhere."""


def init_app(app: Flask) -> None:
    """Set up by `app.extensions["celery"]`; sends nothing yet."""
    celery: Celery = app.extensions["celery"]

    def send(token_id: UUID, used_at: datetime) -> None:
        arguments = [str(token_id), used_at.isoformat()]
        celery.send_task(TOUCH_TASK, args=arguments, ignore_result=True, retry=False)

    app.extensions["identity"] = GenerationCache()
    app.extensions["identity.last_use"] = LastUse(send)


def _remembered() -> GenerationCache:
    remembered: GenerationCache = current_application().extensions["identity"]
    return remembered


def verify(token: str, expect: Expect = lambda _: ()) -> Principal:
    """The principal that a bearer token stands for, and a use of it; raises `Unauthenticated`."""
    principal = check_token(token, expect)
    last_use: LastUse = current_application().extensions["identity.last_use"]
    last_use.note(principal.token_id)
    return principal


def check_token(token: str, expect: Expect = lambda _: ()) -> Principal:
    """As `verify`, but no use."""
    digest = hashlib.sha256(token.encode()).digest()
    remembered = _remembered()
    known = remembered.entry(digest)
    generation = read_generations((TAG, *expect(known[1] if known else None)))[TAG]
    if known is not None and known[0] == generation:
        principal = cast(Principal, known[1])
    else:
        with db.session.scoped(IdentityScope()):
            principal = _load_principal(db.session, digest)
        remembered.put(digest, generation, principal)
    if principal.expires_at is not None and principal.expires_at <= datetime.now(UTC):
        raise Unauthenticated("The token has expired.")
    return principal


def _load_principal(session: Session, digest: bytes) -> Principal:
    token = session.scalar(
        select(ApiToken).where(ApiToken.token_hash == digest, ApiToken.revoked_at.is_(None))
    )
    if token is None:
        raise Unauthenticated("The token is unknown or was revoked.")
    row = session.get_one(PrincipalRow, token.principal_id)
    return _principal(session, row, token.id, token.expires_at, mfa=token.mfa)


def _principal(
    session: Session, row: PrincipalRow, token_id: UUID, expires_at: datetime | None, *, mfa: bool
) -> Principal:
    roles = session.scalars(
        select(PlatformRoleRow.role).where(PlatformRoleRow.principal_id == row.id)
    )
    memberships = session.execute(
        select(MembershipRow.tenant_id, Tenant.slug, MembershipRow.role)
        .join(Tenant, Tenant.id == MembershipRow.tenant_id)
        .where(MembershipRow.principal_id == row.id)
        .order_by(Tenant.slug)
    )
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
    )


def find_principal(email: str, token_id: UUID, *, mfa: bool) -> Principal | None:
    """Somebody of whom another speaks, by the other's token: what they hold is known here, from
    this process's memory while it is current; whether they have shown a second factor is not."""
    email = email.lower()
    generation = read_generations({TAG})[TAG]
    known: Principal | None = _remembered().get(("principal", email), generation)
    if known is not None:
        return replace(known, token_id=token_id, mfa=mfa)
    with db.session.scoped(IdentityScope()):
        row = db.session.scalar(select(PrincipalRow).where(PrincipalRow.email == email))
        if row is None:
            return None
        found = _principal(db.session, row, token_id, None, mfa=mfa)
    _remembered().put(("principal", email), generation, found)
    return found


def find_tenant_id(slug: str) -> UUID | None:
    """The id of the tenant with this slug, from this process's memory while it is current."""
    generation = read_generations({TAG})[TAG]
    tenant_id: UUID | None = _remembered().get(("tenant", slug), generation)
    if tenant_id is not None:
        return tenant_id
    with db.session.scoped(IdentityScope()):
        tenant_id = db.session.scalar(select(Tenant.id).where(Tenant.slug == slug))
    if tenant_id is not None:
        _remembered().put(("tenant", slug), generation, tenant_id)
    return tenant_id


def recall_tenant_id(slug: str) -> UUID | None:
    """What `find_tenant_id` found last, be it current or not: a hint, never an answer."""
    known = _remembered().entry(("tenant", slug))
    return cast(UUID, known[1]) if known is not None else None


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
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).digest()
    token = ApiToken(
        principal_id=user.id,
        name=_name(name),
        token_hash=digest,
        expires_at=expires_at,
        mfa=mfa,
    )
    db.session.add(token)
    _changed()
    return NewToken(token.id, secret)


def revoke_token(token_id: UUID) -> None:
    """Ends the token from the next request in every process; raises `NotFound`."""
    revoked = db.session.execute(
        update(ApiToken)
        .where(ApiToken.id == token_id, ApiToken.revoked_at.is_(None))
        .values(revoked_at=datetime.now(UTC))
        .returning(ApiToken.id)
    )
    if revoked.first() is None:
        raise NotFound("There is no such token, or it was revoked before.")
    _changed()


def touch_token(token_id: UUID, used_at: datetime) -> None:
    """Note the last use; it never moves back, since such notes may arrive out of order."""
    db.session.execute(
        update(ApiToken)
        .where(
            ApiToken.id == token_id,
            ApiToken.last_used_at.is_(None) | (ApiToken.last_used_at < used_at),
        )
        .values(last_used_at=used_at)
    )


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
    invalidate(TAG)


def _name(name: str) -> str:
    if not (name.isprintable() and 0 < len(name) <= MAX_NAME):
        raise _invalid("name", f"must be 1 to {MAX_NAME} printable characters")
    return name


def _invalid(field: str, problem: str) -> Invalid:
    return Invalid(f"The {field} {problem}.", {field: [problem]})
