"""The members of a tenant over HTTP, in the tenant's scope.

A tenant keeps an admin. Whoever leaves loses the tokens that were made in the tenant.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Uuid, bindparam, false, func, select
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from webapp.db.scopes import Scope
from webapp.directory import service
from webapp.directory.administration import (
    acting,
    emails_of,
    find_user_id,
    require_tenant_scope,
)
from webapp.directory.entry import ListedMember, MemberQuery, Page
from webapp.extensions import db
from webapp.http.errors import Conflict, NotFound
from webapp.http.pagination import listing_of, read_page
from webapp.identity.models import MembershipRow
from webapp.identity.principal import TenantRole
from webapp.rules.service import slug_of

MAX_MEMBERS = 1000
"""How many members a tenant has at most, where somebody is added over HTTP."""

Check = Callable[[ListedMember], None]
"""Gets the member as it is, and raises to refuse its change."""


def list_members(scope: Scope, query: MemberQuery) -> Page[ListedMember]:
    """List one page of a tenant's members. Raises `Invalid` for a wrong cursor or scope."""
    tenant = slug_of(require_tenant_scope(scope))
    page = read_page(
        db.session,
        select(MembershipRow),
        MembershipRow,
        tuple(_filters(query)),
        sort=query.sort,
        limit=query.limit,
        cursor=query.cursor,
        listing=listing_of("members", scope, replace(query, limit=0, cursor=None)),
    )
    found = [(row.principal_id, row.role) for row, _ in page.rows]
    emails = emails_of({user_id for user_id, _ in found})
    return Page(
        tuple(ListedMember(user_id, emails[user_id], tenant, role) for user_id, role in found),
        page.next_cursor,
        page.total,
        page.total_is_at_least,
    )


def read_member(scope: Scope, user_id: UUID) -> ListedMember:
    tenant = slug_of(require_tenant_scope(scope))
    return _listed(_find(user_id), tenant)


def add_member(scope: Scope, email: str, role: TenantRole) -> ListedMember:
    """Make somebody a member, who becomes a user if there is none with this address.

    Raises `Conflict` for a member, for the platform's staff, and above the quota.
    """
    tenant_id = require_tenant_scope(scope)
    tenant = slug_of(tenant_id)
    with acting(tenant):
        user_id = _find_or_make_user(email)
        if db.session.get(MembershipRow, (tenant_id, user_id)) is not None:
            raise Conflict(f"{email} is a member already.", {"email": ["is a member already"]})
        if _count() >= MAX_MEMBERS:
            raise Conflict(f"A tenant has {MAX_MEMBERS} members at most.")
        service.set_membership(email, tenant, role)
    return ListedMember(user_id, email.lower(), tenant, role)


def update_member(scope: Scope, user_id: UUID, check: Check, role: TenantRole) -> ListedMember:
    """Change a member's role. Raises `Conflict` where the tenant would have no admin."""
    with _changing(scope, user_id, check) as member:
        if role != "admin":
            _keep_an_admin(but=user_id)
        service.set_membership(member.email, member.tenant, role)
    return replace(member, role=role)


def remove_member(scope: Scope, user_id: UUID, check: Check) -> None:
    """End a membership. Raises `Conflict` where the tenant would have no admin."""
    with _changing(scope, user_id, check):
        _keep_an_admin(but=user_id)
        ended = bindparam("users", [user_id], type_=ARRAY(Uuid))
        db.session.execute(select(func.end_members_in_scope(ended)))
        service.flush_change()


@contextmanager
def _changing(scope: Scope, user_id: UUID, check: Check) -> Iterator[ListedMember]:
    """Change a member while nobody else changes the members of the tenant."""
    tenant = slug_of(require_tenant_scope(scope))
    member = _listed(_find(user_id), tenant)
    with acting(tenant):
        db.session.expire_all()
        member = replace(member, role=cast(TenantRole, _find(user_id).role))
        check(member)
        yield member


def _find(user_id: UUID) -> MembershipRow:
    """The membership in the scope's tenant: no other one is to be seen."""
    found = select(MembershipRow).where(MembershipRow.principal_id == user_id)
    row = db.session.scalar(found)
    if row is None:
        raise NotFound("There is no such member.")
    return row


def _find_or_make_user(email: str) -> UUID:
    user_id = find_user_id(email)
    if user_id is not None:
        return user_id
    user_id = uuid7()
    try:
        db.session.execute(select(func.add_user_in_scope(user_id, email.lower())))
    except IntegrityError as error:
        raise Conflict("Somebody made the same change just now.") from error
    return user_id


def _keep_an_admin(*, but: UUID) -> None:
    others = select(func.count()).where(
        MembershipRow.role == "admin", MembershipRow.principal_id != but
    )
    if not db.session.scalar(others):
        raise Conflict("A tenant keeps an admin: make somebody else one first.")


def _count() -> int:
    return db.session.scalar(select(func.count()).select_from(MembershipRow)) or 0


def _listed(row: MembershipRow, tenant: str) -> ListedMember:
    email = emails_of({row.principal_id})[row.principal_id]
    return ListedMember(row.principal_id, email, tenant, cast(TenantRole, row.role))


def _filters(query: MemberQuery) -> Iterator[ColumnElement[bool]]:
    if query.role is not None:
        yield MembershipRow.role == query.role
    if query.email is not None:
        user_id = find_user_id(query.email)
        yield false() if user_id is None else MembershipRow.principal_id == user_id
