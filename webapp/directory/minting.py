"""API tokens over HTTP: those made in a tenant, in its scope, and the platform's in that of all.

A token that is made in a tenant carries the membership there, and nothing else that its holder may
do. Only the tenant's own admins make one, for a member. In the scope of all tenants only services
get tokens: staff cannot make one for somebody else.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Text, false, func, select
from uuid_utils.compat import uuid7

from webapp.audit import recorder
from webapp.db.scopes import Scope, TenantScope
from webapp.directory import service
from webapp.directory.administration import (
    acting,
    emails_of,
    find_user_id,
    require_global_scope,
    slugs_of,
)
from webapp.directory.entry import ListedBindings, ListedToken, MintedToken, Page, TokenQuery
from webapp.directory.service import NewBindings
from webapp.extensions import db
from webapp.http.errors import Conflict, Forbidden, Invalid, NotFound
from webapp.http.pagination import listing_of, read_page
from webapp.identity import tokens
from webapp.identity.lookup import count_owners
from webapp.identity.models import ApiToken, MembershipRow
from webapp.identity.principal import Principal

LIFETIME = timedelta(days=90)
"""How long a token is good unless somebody says otherwise."""
LONGEST = timedelta(days=366)
MAX_TOKENS = 20
"""How many good tokens a user has at most in one tenant, or a service, where one is made here."""


def list_tokens(scope: Scope, query: TokenQuery) -> Page[ListedToken]:
    """List one page of the tokens in the scope. Raises `Invalid` for a wrong cursor."""
    filters = tuple(_filters(query))
    with db.session.seeing_tokens():
        page = read_page(
            db.session,
            select(ApiToken),
            ApiToken,
            filters,
            sort=query.sort,
            limit=query.limit,
            cursor=query.cursor,
            listing=listing_of("tokens", scope, replace(query, limit=0, cursor=None)),
        )
    return Page(
        _listed([row for row, _ in page.rows]),
        page.next_cursor,
        page.total,
        page.total_is_at_least,
    )


def read_token(token_id: UUID) -> ListedToken:
    return _listed([_find(token_id)])[0]


def create_token(
    scope: Scope, by: Principal, user: str, name: str, expires_at: datetime | None
) -> MintedToken:
    """Make a token for a member of the scope's tenant, or for a service.

    Raises `Invalid` for anybody else, `Conflict` above the quota, and `Forbidden` where staff would
    get the token of a tenant's member.
    """
    ends = _end(expires_at)
    user_id = find_user_id(user)
    with acting():
        _refuse_stranger(scope, user_id)
        _refuse_staff(scope, by)
        assert user_id is not None  # noqa: S101 - refused above
        _refuse_many(scope, user_id)
        secret, token_id = tokens.make_secret(), uuid7()
        minted = func.mint_token_in_scope(
            token_id, user_id, name, tokens.digest(secret), ends, type_=Text
        )
        db.session.execute(select(minted))
        service.flush_change()
        return MintedToken(**vars(read_token(token_id)), secret=secret)


def bind_token(scope: Scope, token_id: UUID, bindings: NewBindings) -> ListedToken:
    """Bind a service's token, instead of what it was bound to; raises `NotFound` and `Invalid`."""
    _find_to_change(token_id)
    require_global_scope(scope)
    with acting():
        service.bind_token(token_id, bindings, by="bind_token_in_scope")
        db.session.expire_all()
        return read_token(token_id)


def revoke_token(scope: Scope, token_id: UUID) -> ListedToken:
    """Revoke a token; one that is revoked already stays as it is.

    Raises `Conflict` where no owner would have a token any more, and `Invalid` for a token that was
    made in a tenant, in another scope than the tenant's.
    """
    token = _find_to_change(token_id)
    if token.tenant_id is not None and not isinstance(scope, TenantScope):
        problem = "must name the tenant that the token was made in"
        raise Invalid(f"The header Sightline-Scope {problem}.", {"Sightline-Scope": [problem]})
    with acting():
        db.session.execute(select(func.revoke_token_in_scope(token_id)))
        service.flush_change()
        db.session.expire_all()
        if token.tenant_id is None and not count_owners(db.session):
            raise Conflict("It is the last token of an owner.")
        return read_token(token_id)


def _find(token_id: UUID) -> ApiToken:
    """A token that the scope sees."""
    with db.session.seeing_tokens():
        token = db.session.scalar(select(ApiToken).where(ApiToken.id == token_id))
    if token is None:
        raise NotFound("There is no such token.")
    return token


def _find_to_change(token_id: UUID) -> ApiToken:
    token = _find(token_id)
    if token.tenant_id is not None:
        recorder.concern(token.tenant_id, slugs_of({token.tenant_id})[token.tenant_id])
    return token


def _end(expires_at: datetime | None) -> datetime:
    now = datetime.now(UTC)
    ends = now + LIFETIME if expires_at is None else expires_at
    if not now < ends <= now + LONGEST:
        raise Invalid(
            "The token's end must be within a year.", {"expires_at": ["must be within a year"]}
        )
    return ends


def _refuse_stranger(scope: Scope, user_id: UUID | None) -> None:
    if isinstance(scope, TenantScope):
        problem = "is no member of the tenant"
        is_known = db.session.get(MembershipRow, (scope.tenant_id, user_id)) is not None
    else:
        problem = "is no service: others get tokens in their tenant, or by a command"
        is_known = user_id is not None and service.is_service(user_id)
    if not is_known:
        raise Invalid(f"The user {problem}.", {"user": [problem]})


def _refuse_staff(scope: Scope, by: Principal) -> None:
    """Refuse staff the token of a tenant's member: it would be a way in without an elevation."""
    if isinstance(scope, TenantScope) and scope.tenant_id not in {
        membership.tenant_id for membership in by.memberships if membership.role == "admin"
    }:
        raise Forbidden("Only a tenant's own admins make tokens for its people.")


def _refuse_many(scope: Scope, user_id: UUID) -> None:
    of_scope = (
        ApiToken.tenant_id == scope.tenant_id
        if isinstance(scope, TenantScope)
        else ApiToken.tenant_id.is_(None)
    )
    good = select(func.count()).where(
        ApiToken.principal_id == user_id,
        of_scope,
        ApiToken.revoked_at.is_(None),
        ApiToken.expires_at.is_(None) | (ApiToken.expires_at > func.now()),
    )
    if (db.session.scalar(good) or 0) >= MAX_TOKENS:
        raise Conflict(f"A user has {MAX_TOKENS} tokens at most: revoke one first.")


def _filters(query: TokenQuery) -> Iterator[ColumnElement[bool]]:
    if query.user is not None:
        user_id = find_user_id(query.user)
        yield false() if user_id is None else ApiToken.principal_id == user_id
    if query.revoked is not None:
        yield ApiToken.revoked_at.is_not(None) if query.revoked else ApiToken.revoked_at.is_(None)


def _listed(rows: Sequence[ApiToken]) -> tuple[ListedToken, ...]:
    bound = {tenant for row in rows for tenant in row.tenant_ids or ()}
    emails = emails_of({row.principal_id for row in rows})
    slugs = slugs_of(bound | {row.tenant_id for row in rows if row.tenant_id is not None})
    return tuple(
        ListedToken(
            id=row.id,
            user=emails[row.principal_id],
            tenant=None if row.tenant_id is None else slugs[row.tenant_id],
            name=row.name,
            created_at=row.created_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
            last_used_at=row.last_used_at,
            mfa=row.mfa,
            bindings=_bindings(row, slugs),
        )
        for row in rows
    )


def _bindings(row: ApiToken, slugs: Mapping[UUID, str]) -> ListedBindings:
    tenants = None if row.tenant_ids is None else sorted(slugs[each] for each in row.tenant_ids)
    return ListedBindings(
        surfaces=tuple(row.surfaces),
        tenants=None if tenants is None else tuple(tenants),
        break_glass=row.break_glass,
        reports_mfa=row.reports_mfa,
    )
