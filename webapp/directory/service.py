"""The administration of tenants, users, their roles and their tokens.

A change counts from the next request on, in every process. The caller commits; triggers record each
change in the same transaction, and store a notice for a tenant's admins where it concerns a member.

Whoever holds a platform role is no member of a tenant: a trigger refuses it.

A tenant or user that ends keeps its row, since rules, grants and audit events name it, and keeps
its slug or address. Another one can have that only after the ended one is renamed.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Literal, TypeVar
from uuid import UUID

from marshmallow import ValidationError
from sqlalchemy import ARRAY, ColumnElement, Text, Uuid, bindparam, delete, func, select
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from webapp.caching import invalidate
from webapp.db.session import violated_constraint
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
from webapp.rules.rule import ALL_RULES_TAG, owner_tag
from webapp.scope.schemas import SURFACES
from webapp.text import LINE, is_line

MAX_NAME = 200
MAX_SURFACES, MAX_TENANTS = 20, 100
"""How many surfaces and tenants a service's token may name."""

UNKNOWN_TOKEN = "There is no such token, or it was revoked before."  # noqa: S105 - an error's text

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")

_REFUSED = {
    "one_side": "Nobody holds a platform role and is a member of a tenant; end the one before the"
    " other.",
    "has_ended": "The user has ended.",
}
"""What a change is refused for by triggers, by the constraints that they name."""

Row = TypeVar("Row", Tenant, PrincipalRow)

BindingFunction = Literal["bind_token", "bind_token_in_scope"]
"""The functions of the database that bind a token: for commands, and for requests."""


@dataclass(frozen=True)
class NewToken:
    id: UUID
    secret: str
    """The token itself: shown once, kept nowhere."""


@dataclass(frozen=True)
class NewBindings:
    """What a service's token is to be bound to."""

    surfaces: tuple[str, ...]
    """Patterns: a surface's name, a prefix and `.*`, or `*`, which covers no `admin.` surface."""
    tenants: tuple[str, ...] | None
    """Slugs; `None` for all tenants."""
    break_glass: bool
    reports_mfa: bool

    @property
    def binds(self) -> bool:
        """Whether it lets the token ask anything at all."""
        return self != NewBindings((), (), break_glass=False, reports_mfa=False)


@dataclass(frozen=True)
class Ended:
    """Counts of what ended together with a user."""

    tokens: int
    platform_roles: int
    memberships: int


def create_tenant(slug: str, name: str) -> Tenant:
    return _add(Tenant(slug=_slug(slug), name=_name(name)), _taken("tenant", slug))


def rename_tenant(slug: str, *, new_slug: str | None = None, name: str | None = None) -> Tenant:
    """Change a tenant's slug, its name, or both. Audit events keep the slug that they recorded."""
    tenant = get_tenant(slug)
    if new_slug is not None:
        tenant.slug = _slug(new_slug)
    if name is not None:
        tenant.name = _name(name)
    flush_change(_taken("tenant", tenant.slug))
    # Cached lists of rules show slugs.
    invalidate(ALL_RULES_TAG, owner_tag(tenant.id))
    return tenant


def end_tenant(slug: str) -> int:
    """End a tenant and all its memberships, and return how many these were.

    From now on no elevation finds the tenant. Its rules, grants and audit events stay.
    """
    tenant = lock_tenant(slug)
    tenant.ended_at = datetime.now(UTC)
    ended = _end_memberships(MembershipRow.tenant_id == tenant.id)
    flush_change()
    return ended


def create_user(email: str, platform_roles: Iterable[PlatformRole] = ()) -> PrincipalRow:
    email = _email(email)
    user = _add(PrincipalRow(email=email), _taken("user", email))
    for role in set(platform_roles):
        db.session.add(PlatformRoleRow(principal_id=user.id, role=role))
    db.session.flush()
    return user


def rename_user(email: str, new_email: str) -> PrincipalRow:
    """Change a user's address. Audit events and grants keep the address that they recorded."""
    user = get_user(email)
    user.email = _email(new_email)
    flush_change(_taken("user", user.email))
    return user


def end_user(email: str) -> Ended:
    """End a user: revoke all tokens, and end all roles and memberships."""
    user = _active_user(email)
    user.ended_at = datetime.now(UTC)
    tokens_of_user = select(ApiToken.id).where(ApiToken.principal_id == user.id)
    revoked = _revoke(db.session.scalars(tokens_of_user).all())
    roles = db.session.scalars(
        delete(PlatformRoleRow)
        .where(PlatformRoleRow.principal_id == user.id)
        .returning(PlatformRoleRow.role)
    ).all()
    memberships = _end_memberships(MembershipRow.principal_id == user.id)
    flush_change()
    return Ended(len(revoked), len(roles), memberships)


def set_membership(email: str, slug: str, role: TenantRole) -> None:
    user, tenant = get_user(email), lock_tenant(slug)
    _refuse_ended(user)  # a trigger refuses who ends at the moment
    membership = db.session.get(MembershipRow, (tenant.id, user.id))
    if membership is None:
        membership = MembershipRow(tenant_id=tenant.id, principal_id=user.id)
        db.session.add(membership)
    membership.role = role
    flush_change()


def end_membership(email: str, slug: str) -> None:
    user, tenant = get_user(email), get_tenant(slug)
    membership = db.session.get(MembershipRow, (tenant.id, user.id))
    if membership is None:
        raise NotFound(f"{email} is no member of {slug}.")
    db.session.delete(membership)
    flush_change()


def set_platform_role(email: str, role: PlatformRole, *, held: bool) -> None:
    user = _active_user(email) if held else get_user(email)
    row = db.session.get(PlatformRoleRow, (user.id, role))
    if held and row is None:
        db.session.add(PlatformRoleRow(principal_id=user.id, role=role))
    elif not held:
        if row is None:
            raise NotFound(f"{email} does not have the role {role}.")
        db.session.delete(row)
    flush_change()


def create_token(
    email: str, name: str, expires_at: datetime | None = None, *, mfa: bool = False
) -> NewToken:
    """Make a token. `mfa` says that the user has shown a second factor for it."""
    user = _active_user(email)
    secret, token_id = tokens.make_secret(), uuid7()
    minted = func.mint_token(
        token_id, user.id, _name(name), tokens.digest(secret), expires_at, mfa, type_=Text
    )
    db.session.execute(select(minted))
    flush_change()
    return NewToken(token_id, secret)


def bind_token(token_id: UUID, bindings: NewBindings, by: BindingFunction = "bind_token") -> None:
    """Bind a service's token, instead of what it was bound to; raises `NotFound` and `Invalid`.

    `by` is the function that the scope's role may call for it.
    """
    token = db.session.get(ApiToken, token_id)
    if token is None or token.revoked_at is not None:
        raise NotFound(UNKNOWN_TOKEN)
    if not is_service(token.principal_id):
        raise _invalid("token", "must be a service's: its user does not have the role service")
    bound = getattr(func, by)(
        token_id,
        bindparam("surfaces", _patterns(bindings.surfaces), type_=ARRAY(Text)),
        bindparam("tenant_ids", _tenant_ids(bindings.tenants), type_=ARRAY(Uuid)),
        bindings.break_glass,
        bindings.reports_mfa,
        type_=Uuid,
    )
    if db.session.scalar(select(bound)) is None:
        raise NotFound(UNKNOWN_TOKEN)
    flush_change()


def is_service(user_id: UUID) -> bool:
    return db.session.get(PlatformRoleRow, (user_id, "service")) is not None


def revoke_token(token_id: UUID) -> None:
    """Revoke a token; raises `NotFound` if it is unknown or revoked already."""
    if not _revoke([token_id]):
        raise NotFound(UNKNOWN_TOKEN)
    flush_change()


def _revoke(token_ids: Sequence[UUID]) -> Sequence[UUID]:
    """Revoke those of some tokens that are not revoked yet, and return their ids."""
    ids = bindparam("ids", list(token_ids), type_=ARRAY(Uuid))
    return db.session.scalars(select(func.revoke_tokens(ids, type_=Uuid))).all()


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


def _active_user(email: str) -> PrincipalRow:
    """A user that has not ended, and that nobody else changes until the transaction ends."""
    user = get_user(email)
    db.session.refresh(user, with_for_update=True)
    _refuse_ended(user)
    return user


def _refuse_ended(user: PrincipalRow) -> None:
    if user.ended_at is not None:
        raise Conflict(f"The user {user.email} has ended.")


def lock_tenant(slug: str) -> Tenant:
    """A tenant that has not ended, and that nobody else changes until the transaction ends."""
    tenant = get_tenant(slug)
    db.session.refresh(tenant, with_for_update=True)
    if tenant.ended_at is not None:
        raise Conflict(f"The tenant {slug} has ended.")
    return tenant


def _end_memberships(condition: ColumnElement[bool]) -> int:
    rows = db.session.scalars(select(MembershipRow).where(condition)).all()
    for row in rows:
        db.session.delete(row)
    return len(rows)


def _add(row: Row, taken: str) -> Row:
    db.session.add(row)
    flush_change(taken)
    return row


def flush_change(taken: str = "Somebody made the same change just now.") -> None:
    """Write what has changed, so that it counts from the commit on; raises `Conflict`."""
    try:
        db.session.flush()
    except IntegrityError as error:
        raise Conflict(_REFUSED.get(violated_constraint(error) or "", taken)) from error
    invalidate(IDENTITY_TAG)


def _taken(kind: str, name: str) -> str:
    return f"There is a {kind} {name} already."


def _tenant_ids(slugs: Sequence[str] | None) -> list[UUID] | None:
    if slugs is None:
        return None
    return [get_tenant(slug).id for slug in _bounded("tenant", slugs, MAX_TENANTS)]


def _patterns(surfaces: Sequence[str]) -> list[str]:
    try:
        for pattern, check in product(surfaces, SURFACES):
            check(pattern)
    except ValidationError as error:
        raise _invalid("surface", "must be a surface, a prefix and `.*`, or `*`") from error
    return _bounded("surface", surfaces, MAX_SURFACES)


def _bounded(field: str, values: Iterable[str], most: int) -> list[str]:
    distinct = list(dict.fromkeys(values))
    if len(distinct) > most:
        raise _invalid(field, f"can be given {most} times at most")
    return distinct


def _slug(slug: str) -> str:
    if not _SLUG.fullmatch(slug):
        raise _invalid("slug", "must be 1 to 63 of a-z, 0-9 and -, and not begin with -")
    return slug


def _email(email: str) -> str:
    email = email.lower()
    if not (_EMAIL.fullmatch(email) and is_line(email) and len(email) <= MAX_EMAIL):
        raise _invalid("email", "must be an e-mail address")
    return email


def _name(name: str) -> str:
    if not (is_line(name) and 0 < len(name) <= MAX_NAME):
        raise _invalid("name", f"must be {LINE}, of 1 to {MAX_NAME} characters")
    return name


def _invalid(field: str, problem: str) -> Invalid:
    return Invalid(f"The {field} {problem}.", {field: [problem]})
