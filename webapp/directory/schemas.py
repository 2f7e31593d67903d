"""Schemas of tenants, members and tokens."""

from typing import get_args

from marshmallow import fields, validate

from webapp.directory import documentation
from webapp.directory.entry import (
    MemberQuery,
    MemberSort,
    TenantQuery,
    TenantSort,
    TokenQuery,
    TokenSort,
)
from webapp.directory.service import MAX_NAME, MAX_SURFACES, MAX_TENANTS, NewBindings
from webapp.http.pagination import PageQuerySchema, PageSchema
from webapp.http.schema import Flag, FlagText, Instant, Schema, Text, TupleOf
from webapp.identity.principal import TENANT_ROLES
from webapp.scope.schemas import EMAIL, SLUG, SURFACES

NAME = validate.Length(1, MAX_NAME)
ROLE = validate.OneOf(TENANT_ROLES)


class TenantSchema(Schema):
    example = documentation.TENANT
    descriptions = documentation.TENANT_FIELDS

    id = fields.UUID(required=True)
    slug = fields.String(required=True)
    name = fields.String(required=True)
    created_at = fields.AwareDateTime(required=True)
    ended_at = fields.AwareDateTime(required=True, allow_none=True)


class TenantPageSchema(PageSchema):
    example = documentation.TENANTS

    items = fields.List(fields.Nested(TenantSchema), required=True)


class TenantQuerySchema(PageQuerySchema):
    model = TenantQuery
    descriptions = documentation.TENANT_QUERY_FIELDS

    sort = fields.String(load_default="slug", validate=validate.OneOf(get_args(TenantSort)))
    ended = FlagText(load_default=None)


class TenantCreateSchema(Schema):
    example = documentation.NEW_TENANT
    descriptions = {**documentation.TENANT_FIELDS, **documentation.NEW_TENANT_FIELDS}

    slug = fields.String(required=True, validate=SLUG)
    name = Text(load_default=None, validate=NAME)


class TenantPatchSchema(Schema):
    example = documentation.TENANT_CHANGES
    descriptions = documentation.TENANT_FIELDS

    slug = fields.String(load_default=None, validate=SLUG)
    name = Text(load_default=None, validate=NAME)


class MemberSchema(Schema):
    example = documentation.MEMBER
    descriptions = documentation.MEMBER_FIELDS

    id = fields.UUID(required=True)
    email = fields.String(required=True)
    tenant = fields.String(required=True)
    role = fields.String(required=True, validate=ROLE)


class MemberPageSchema(PageSchema):
    example = documentation.MEMBERS

    items = fields.List(fields.Nested(MemberSchema), required=True)


class MemberQuerySchema(PageQuerySchema):
    model = MemberQuery
    descriptions = documentation.MEMBER_QUERY_FIELDS

    sort = fields.String(load_default="role", validate=validate.OneOf(get_args(MemberSort)))
    role = fields.String(load_default=None, validate=ROLE)
    email = Text(load_default=None, validate=EMAIL)


class MemberCreateSchema(Schema):
    example = documentation.NEW_MEMBER
    descriptions = documentation.NEW_MEMBER_FIELDS

    email = Text(required=True, validate=EMAIL)
    role = fields.String(load_default="member", validate=ROLE)


class MemberPatchSchema(Schema):
    example = documentation.MEMBER_CHANGES
    descriptions = documentation.MEMBER_FIELDS

    role = fields.String(required=True, validate=ROLE)


class BindingsSchema(Schema):
    example = documentation.BINDINGS
    descriptions = documentation.BINDINGS_FIELDS

    surfaces = fields.List(fields.String(), required=True)
    tenants = fields.List(fields.String(), required=True, allow_none=True)
    break_glass = fields.Boolean(required=True)
    reports_mfa = fields.Boolean(required=True)


class NewBindingsSchema(Schema):
    model = NewBindings
    example = documentation.BINDINGS
    descriptions = documentation.BINDINGS_FIELDS

    surfaces = TupleOf(
        fields.String(validate=SURFACES),
        load_default=(),
        validate=validate.Length(max=MAX_SURFACES),
    )
    tenants = TupleOf(
        fields.String(validate=SLUG),
        load_default=(),
        allow_none=True,
        validate=validate.Length(max=MAX_TENANTS),
    )
    break_glass = Flag(load_default=False)
    reports_mfa = Flag(load_default=False)


class TokenSchema(Schema):
    example = documentation.TOKEN
    descriptions = documentation.TOKEN_FIELDS

    id = fields.UUID(required=True)
    user = fields.String(required=True)
    tenant = fields.String(required=True, allow_none=True)
    name = fields.String(required=True)
    created_at = fields.AwareDateTime(required=True)
    expires_at = fields.AwareDateTime(required=True, allow_none=True)
    revoked_at = fields.AwareDateTime(required=True, allow_none=True)
    last_used_at = fields.AwareDateTime(required=True, allow_none=True)
    mfa = fields.Boolean(required=True)
    bindings = fields.Nested(BindingsSchema, required=True)


class TokenPageSchema(PageSchema):
    example = documentation.TOKENS

    items = fields.List(fields.Nested(TokenSchema), required=True)


class TokenQuerySchema(PageQuerySchema):
    model = TokenQuery
    descriptions = documentation.TOKEN_QUERY_FIELDS

    sort = fields.String(load_default="-created_at", validate=validate.OneOf(get_args(TokenSort)))
    user = Text(load_default=None, validate=EMAIL)
    revoked = FlagText(load_default=None)


class TokenCreateSchema(Schema):
    example = documentation.NEW_TOKEN
    descriptions = documentation.NEW_TOKEN_FIELDS

    user = Text(required=True, validate=EMAIL)
    name = Text(required=True, validate=NAME)
    expires_at = Instant(load_default=None)


class MintedTokenSchema(TokenSchema):
    example = documentation.MINTED
    descriptions = documentation.MINTED_FIELDS

    secret = fields.String(required=True)
