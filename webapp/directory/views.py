"""Tenants, members and tokens over HTTP: /admin/api/tenants, /members and /tokens."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from flask import Response, url_for

from webapp.directory import members, minting, tenants
from webapp.directory.entry import (
    ListedMember,
    ListedTenant,
    MemberQuery,
    TenantQuery,
    TokenQuery,
)
from webapp.directory.schemas import (
    MemberCreateSchema,
    MemberPageSchema,
    MemberPatchSchema,
    MemberQuerySchema,
    MemberSchema,
    MintedTokenSchema,
    NewBindingsSchema,
    TenantCreateSchema,
    TenantPageSchema,
    TenantPatchSchema,
    TenantQuerySchema,
    TenantSchema,
    TokenCreateSchema,
    TokenPageSchema,
    TokenQuerySchema,
    TokenSchema,
)
from webapp.directory.service import NewBindings
from webapp.http.etags import required_tag
from webapp.http.parsing import Blueprint
from webapp.identity.principal import STAFF_ROLES, TENANT_ROLES, PlatformRole
from webapp.scope.answers import respond, respond_empty, respond_page, tag_of
from webapp.scope.surface import current_principal, current_scope, surface

AUDITORS: tuple[PlatformRole, ...] = ("auditor", "owner")

tenants_blueprint = Blueprint(
    "tenants",
    __name__,
    url_prefix="/admin/api/tenants",
    description="The tenants: the customers, whose rows are kept apart.",
)
members_blueprint = Blueprint(
    "members",
    __name__,
    url_prefix="/admin/api/members",
    description="A tenant's people. The scope is always one tenant's.",
)
tokens_blueprint = Blueprint(
    "tokens",
    __name__,
    url_prefix="/admin/api/tokens",
    description="API tokens: a tenant's, in its scope, and those of services, in the scope"
    " `global`.",
)


@tenants_blueprint.route("")
@surface("admin.tenants.list", tenant_roles=TENANT_ROLES, platform_roles=STAFF_ROLES)
@tenants_blueprint.arguments(TenantQuerySchema, location="query")
@tenants_blueprint.response(200, TenantPageSchema)
def list_tenants(query: TenantQuery) -> Response:
    """List tenants

    In a tenant's scope you see that tenant. In the scope `global` you see every tenant that does
    not say no.
    """
    return respond_page(TenantPageSchema(), tenants.list_tenants(current_scope(), query))


@tenants_blueprint.route("", methods=["POST"])
@surface("admin.tenants.create", tenant_roles=(), platform_roles=("owner",), changes=True)
@tenants_blueprint.arguments(TenantCreateSchema)
@tenants_blueprint.response(201, TenantSchema)
def create_tenant(draft: dict[str, Any]) -> Response:
    """Make a tenant

    In the scope `global`.
    """
    slug, name = draft["slug"], draft["name"]
    made = tenants.create_tenant(current_scope(), slug, name or slug)
    response = respond(TenantSchema(), made, rows=1, status=201)
    response.headers["Location"] = url_for("tenants.read_tenant", tenant_id=made.id)
    return response


@tenants_blueprint.route("/<uuid:tenant_id>")
@surface("admin.tenants.read", tenant_roles=TENANT_ROLES, platform_roles=STAFF_ROLES)
@tenants_blueprint.response(200, TenantSchema)
def read_tenant(tenant_id: UUID) -> Response:
    """Read a tenant"""
    return respond(TenantSchema(), tenants.read_tenant(tenant_id), rows=1)


@tenants_blueprint.route("/<uuid:tenant_id>", methods=["PATCH"])
@surface("admin.tenants.update", tenant_roles=(), platform_roles=("owner",), changes=True)
@tenants_blueprint.arguments(TenantPatchSchema)
@tenants_blueprint.response(200, TenantSchema)
def update_tenant(changes: dict[str, Any], tenant_id: UUID) -> Response:
    """Change a tenant's slug or name

    In the tenant's scope. Requests that name the former slug find no tenant; audit events keep it.
    """
    changed = tenants.update_tenant(current_scope(), tenant_id, _tenant_is_current(), **changes)
    return respond(TenantSchema(), changed, rows=1)


@tenants_blueprint.route("/<uuid:tenant_id>", methods=["DELETE"])
@surface("admin.tenants.end", tenant_roles=(), platform_roles=("owner",), changes=True)
@tenants_blueprint.response(204)
def end_tenant(tenant_id: UUID) -> Response:
    """End a tenant, for good

    In the tenant's scope. All memberships in it end, and no elevation finds it any more. Its rules,
    grants and audit events stay, and its slug stays taken.
    """
    tenants.end_tenant(current_scope(), tenant_id, _tenant_is_current())
    return respond_empty()


@members_blueprint.route("")
@surface("admin.members.list", tenant_roles=("admin",), platform_roles=STAFF_ROLES)
@members_blueprint.arguments(MemberQuerySchema, location="query")
@members_blueprint.response(200, MemberPageSchema)
def list_members(query: MemberQuery) -> Response:
    """List a tenant's members"""
    return respond_page(MemberPageSchema(), members.list_members(current_scope(), query))


@members_blueprint.route("", methods=["POST"])
@surface("admin.members.add", tenant_roles=("admin",), platform_roles=("owner",), changes=True)
@members_blueprint.arguments(MemberCreateSchema)
@members_blueprint.response(201, MemberSchema)
def add_member(draft: dict[str, Any]) -> Response:
    """Add a member to a tenant

    Who is no user yet becomes one. Nobody of the platform's staff can be a member.
    """
    added = members.add_member(current_scope(), draft["email"], draft["role"])
    response = respond(MemberSchema(), added, rows=1, status=201)
    response.headers["Location"] = url_for("members.read_member", member_id=added.id)
    return response


@members_blueprint.route("/<uuid:member_id>")
@surface("admin.members.read", tenant_roles=("admin",), platform_roles=STAFF_ROLES)
@members_blueprint.response(200, MemberSchema)
def read_member(member_id: UUID) -> Response:
    """Read a member"""
    return respond(MemberSchema(), members.read_member(current_scope(), member_id), rows=1)


@members_blueprint.route("/<uuid:member_id>", methods=["PATCH"])
@surface("admin.members.update", tenant_roles=("admin",), platform_roles=("owner",), changes=True)
@members_blueprint.arguments(MemberPatchSchema)
@members_blueprint.response(200, MemberSchema)
def update_member(changes: dict[str, Any], member_id: UUID) -> Response:
    """Change a member's role

    It counts from the next request on. A tenant keeps an admin.
    """
    check = _member_is_current()
    changed = members.update_member(current_scope(), member_id, check, changes["role"])
    return respond(MemberSchema(), changed, rows=1)


@members_blueprint.route("/<uuid:member_id>", methods=["DELETE"])
@surface("admin.members.remove", tenant_roles=("admin",), platform_roles=("owner",), changes=True)
@members_blueprint.response(204)
def remove_member(member_id: UUID) -> Response:
    """Remove a member from a tenant

    From the next request on, with the tokens that were made in the tenant. A tenant keeps an admin.
    """
    members.remove_member(current_scope(), member_id, _member_is_current())
    return respond_empty()


@tokens_blueprint.route("")
@surface("admin.tokens.list", tenant_roles=("admin",), platform_roles=AUDITORS)
@tokens_blueprint.arguments(TokenQuerySchema, location="query")
@tokens_blueprint.response(200, TokenPageSchema)
def list_tokens(query: TokenQuery) -> Response:
    """List tokens

    In a tenant's scope you see those that were made in it. In the scope `global` you see those of
    the platform and of all tenants. A token's secret is kept nowhere.
    """
    return respond_page(TokenPageSchema(), minting.list_tokens(current_scope(), query))


@tokens_blueprint.route("", methods=["POST"])
@surface("admin.tokens.create", tenant_roles=("admin",), platform_roles=("owner",), changes=True)
@tokens_blueprint.arguments(TokenCreateSchema)
@tokens_blueprint.response(201, MintedTokenSchema)
def create_token(draft: dict[str, Any]) -> Response:
    """Make a token

    In your tenant, for one of its members: it carries the membership there and nothing else. In the
    scope `global`, for a service: it asks nothing until it is bound. The secret is shown this once.
    """
    minted = minting.create_token(current_scope(), current_principal(), **draft)
    response = respond(MintedTokenSchema(), minted, rows=1, status=201)
    response.headers["Location"] = url_for("tokens.read_token", token_id=minted.id)
    return response


@tokens_blueprint.route("/<uuid:token_id>")
@surface("admin.tokens.read", tenant_roles=("admin",), platform_roles=AUDITORS)
@tokens_blueprint.response(200, TokenSchema)
def read_token(token_id: UUID) -> Response:
    """Read a token"""
    return respond(TokenSchema(), minting.read_token(token_id), rows=1)


@tokens_blueprint.route("/<uuid:token_id>/bind", methods=["POST"])
@surface("admin.tokens.bind", tenant_roles=(), platform_roles=("owner",), changes=True)
@tokens_blueprint.arguments(NewBindingsSchema)
@tokens_blueprint.response(200, TokenSchema)
def bind_token(bindings: NewBindings, token_id: UUID) -> Response:
    """Bind a service's token

    In the scope `global`. From the next request on the token asks what is given here, and nothing
    else.
    """
    bound = minting.bind_token(current_scope(), token_id, bindings)
    return respond(TokenSchema(), bound, rows=1)


@tokens_blueprint.route("/<uuid:token_id>/revoke", methods=["POST"])
@surface("admin.tokens.revoke", tenant_roles=("admin",), platform_roles=("owner",), changes=True)
@tokens_blueprint.response(200, TokenSchema)
def revoke_token(token_id: UUID) -> Response:
    """Revoke a token

    It ends in every process, from the next request on. A token of a tenant is revoked in the
    tenant's scope.
    """
    revoked = minting.revoke_token(current_scope(), token_id)
    return respond(TokenSchema(), revoked, rows=1)


def _tenant_is_current() -> Callable[[ListedTenant], None]:
    check = required_tag()
    return lambda tenant: check(tag_of(TenantSchema(), tenant))


def _member_is_current() -> Callable[[ListedMember], None]:
    check = required_tag()
    return lambda member: check(tag_of(MemberSchema(), member))
