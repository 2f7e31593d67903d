"""Schemas of grants, of requests for grants and of reviews."""

from typing import get_args

from marshmallow import fields, validate

from webapp.grants import documentation
from webapp.grants.grant import GrantKind, GrantQuery, GrantRequest, GrantState, SortKey
from webapp.http.pagination import PageQuerySchema, PageSchema
from webapp.http.schema import Schema, Text, TupleOf, Whole
from webapp.ledger.schemas import ReasonSchema
from webapp.rules.engine.templates import BREAK_GLASS
from webapp.scope.headers import REASON_CODES
from webapp.scope.schemas import SLUG, SURFACE, GivenReasonSchema

MAX_ENTRIES = 20
MAX_MINUTES = 7 * 24 * 60
MAX_REVIEW = 4000
APPROVABLE = [code for code in REASON_CODES if code != BREAK_GLASS]
"""Reason codes that a request may give. Break-glass needs no request."""


class ApprovalSchema(Schema):
    descriptions = documentation.APPROVAL_FIELDS

    by = fields.String(required=True, attribute="email")
    roles = fields.List(fields.String(), required=True)
    approved_at = fields.AwareDateTime(required=True)


class GrantSchema(Schema):
    example = documentation.APPROVED
    descriptions = documentation.GRANT_FIELDS

    id = fields.UUID(required=True)
    kind = fields.String(required=True, validate=validate.OneOf(get_args(GrantKind)))
    holder = fields.String(required=True, attribute="email")
    tenant = fields.String(required=True, allow_none=True)
    surfaces = fields.List(fields.String(), required=True)
    reason = fields.Nested(ReasonSchema, required=True, attribute="why")
    minutes = fields.Integer(required=True)
    rules = fields.List(fields.UUID(), required=True, attribute="rule_ids")
    state = fields.String(required=True, validate=validate.OneOf(get_args(GrantState)))
    approvals = fields.List(fields.Nested(ApprovalSchema), required=True)
    requested_at = fields.AwareDateTime(required=True)
    starts_at = fields.AwareDateTime(required=True, allow_none=True)
    ends_at = fields.AwareDateTime(required=True)
    closed_at = fields.AwareDateTime(required=True, allow_none=True)
    closed_by = fields.String(required=True, allow_none=True)
    reviewed_at = fields.AwareDateTime(required=True, allow_none=True)
    reviewed_by = fields.String(required=True, allow_none=True)
    review = fields.String(required=True, allow_none=True)
    version = fields.Integer(required=True)


class GrantsSchema(Schema):
    example = documentation.GRANTS

    items = fields.List(fields.Nested(GrantSchema), required=True)


class GrantPageSchema(PageSchema):
    example = documentation.PAGE

    items = fields.List(fields.Nested(GrantSchema), required=True)


class ApprovableReasonSchema(GivenReasonSchema):
    descriptions = documentation.APPROVABLE_REASON_FIELDS

    code = fields.String(required=True, validate=validate.OneOf(APPROVABLE))


class GrantRequestSchema(Schema):
    model = GrantRequest
    example = documentation.REQUEST
    descriptions = documentation.ASK_FIELDS

    surfaces = TupleOf(
        fields.String(validate=SURFACE),
        required=True,
        validate=validate.Length(1, MAX_ENTRIES),
    )
    tenants = TupleOf(
        fields.String(validate=SLUG),
        required=True,
        allow_none=True,
        validate=validate.Length(1, MAX_ENTRIES),
    )
    reason = fields.Nested(ApprovableReasonSchema, required=True)
    minutes = Whole(required=True, validate=validate.Range(1, MAX_MINUTES))


class ReviewSchema(Schema):
    example = documentation.REVIEW
    descriptions = documentation.REVIEW_FIELDS

    text = Text(required=True, validate=validate.Length(1, MAX_REVIEW))


class GrantQuerySchema(PageQuerySchema):
    model = GrantQuery
    descriptions = documentation.GRANT_QUERY_FIELDS

    sort = fields.String(load_default="-requested_at", validate=validate.OneOf(get_args(SortKey)))
    tenant = fields.String(load_default=None, validate=SLUG)
    state = fields.String(load_default=None, validate=validate.OneOf(get_args(GrantState)))
    kind = fields.String(load_default=None, validate=validate.OneOf(get_args(GrantKind)))
    holder = Text(load_default=None, validate=validate.Length(1, 320))
