"""Schemas of audit events on the wire, and of the filters over HTTP and in commands."""

from typing import Any, ClassVar, get_args
from urllib.parse import urlencode

import marshmallow as ma
from marshmallow import fields, validate

from webapp.audit.event import Kind, Outcome, Ruling, ScopeKind
from webapp.http.pagination import PageQuerySchema, PageSchema
from webapp.http.schema import PAGE_FIELDS, Fields, FlagText, Instant, Schema, Text
from webapp.ledger import documentation
from webapp.ledger.search import (
    AuditQuery,
    ExcludedQuery,
    GroupedAttempts,
    LedgerEntry,
    SortKey,
)
from webapp.scope.schemas import SURFACES

PATH = "/admin/api/audits"


def _one_of(literal: Any) -> validate.OneOf:
    return validate.OneOf(get_args(literal))


class ActorSchema(Schema):
    descriptions = documentation.ACTOR_FIELDS

    id = fields.UUID(required=True)
    email = fields.String(required=True)
    mfa = fields.Boolean(required=True)
    roles = fields.List(fields.String(), required=True)
    token_id = fields.UUID(required=True, allow_none=True)


class ViaSchema(Schema):
    descriptions = documentation.VIA_FIELDS

    id = fields.UUID(required=True)
    email = fields.String(required=True)
    token_id = fields.UUID(required=True, allow_none=True)


class ReasonSchema(Schema):
    descriptions = documentation.REASON_FIELDS

    code = fields.String(required=True)
    ticket = fields.String(required=True, allow_none=True)
    note = fields.String(required=True, allow_none=True)


class ScopeSchema(Schema):
    descriptions = documentation.SCOPE_FIELDS

    kind = fields.String(required=True, validate=_one_of(ScopeKind))
    tenant_id = fields.UUID(required=True, allow_none=True)
    tenant = fields.String(required=True, allow_none=True)


class ExcludedTenantsSchema(Schema):
    descriptions = documentation.EXCLUDED_TENANTS_FIELDS

    count = fields.Integer(required=True)
    digest = fields.String(required=True)


class DecisionSchema(Schema):
    descriptions = documentation.DECISION_FIELDS

    effect = fields.String(required=True, validate=_one_of(Ruling))
    rule_ids = fields.List(fields.UUID(), required=True)
    policy_version = fields.Integer(required=True, allow_none=True)
    grant_ids = fields.List(fields.UUID(), required=True)
    excluded = fields.Nested(ExcludedTenantsSchema, required=True, allow_none=True)


class RequestSchema(Schema):
    descriptions = documentation.REQUEST_FIELDS

    id = fields.String(required=True)
    method = fields.String(required=True)
    path = fields.String(required=True)
    ip = fields.String(required=True, allow_none=True)
    user_agent = fields.String(required=True, allow_none=True)
    x_request_id = fields.String(required=True, allow_none=True)


class OriginSchema(Schema):
    descriptions = documentation.ORIGIN_FIELDS

    journal = fields.UUID(required=True)
    seq = fields.Integer(required=True)


class AuditSchema(Schema):
    """An event as it was recorded, with the moment of its commit."""

    example = documentation.AUDIT
    descriptions = documentation.AUDIT_FIELDS

    id = fields.UUID(required=True)
    occurred_at = fields.String(required=True, metadata={"format": "date-time"})
    kind = fields.String(required=True, validate=_one_of(Kind))
    actor = fields.Nested(ActorSchema, required=True)
    via = fields.Nested(ViaSchema, required=True, allow_none=True)
    terms = fields.Dict(
        keys=fields.String(), values=fields.String(), required=True, allow_none=True
    )
    surface = fields.String(required=True)
    reason = fields.Nested(ReasonSchema, required=True, allow_none=True)
    scope = fields.Nested(ScopeSchema, required=True)
    decision = fields.Nested(DecisionSchema, required=True)
    outcome = fields.String(required=True, validate=_one_of(Outcome))
    http_status = fields.Integer(required=True, allow_none=True)
    rows = fields.Integer(required=True, allow_none=True)
    repeats = fields.Integer(required=True)
    request = fields.Nested(RequestSchema, required=True)
    origin = fields.Nested(OriginSchema, required=True)
    committed_at = fields.AwareDateTime(required=True)

    @ma.pre_dump
    def _flatten(self, entry: LedgerEntry, **_: Any) -> dict[str, Any]:
        return {**entry.event, "committed_at": entry.committed_at}


class AttemptsSchema(Schema):
    """A stranger's refused attempts that one line of a list stands for."""

    descriptions = documentation.ATTEMPTS_FIELDS

    count = fields.Integer(required=True)
    first_at = fields.AwareDateTime(required=True)
    last_at = fields.AwareDateTime(required=True)
    each = fields.String(required=True)

    @ma.pre_dump
    def _flatten(self, attempts: GroupedAttempts, **_: Any) -> dict[str, Any]:
        return {**vars(attempts), "each": _path_of(attempts.each)}


def _path_of(query: AuditQuery) -> str:
    """The path and the query of a list that is not grouped, from its first page on."""
    filters = AuditQuerySchema(exclude=("limit", "cursor", "grouped")).dump(query)
    given = {name: value for name, value in filters.items() if value is not None}
    return f"{PATH}?{urlencode({**given, 'grouped': 'false'})}"


class AuditLineSchema(AuditSchema):
    """A line of a list: an event, or the first of the attempts that it stands for."""

    example = documentation.LINE
    descriptions = documentation.LINE_FIELDS

    attempts = fields.Nested(AttemptsSchema, required=True, allow_none=True)

    @ma.pre_dump
    def _flatten(self, entry: LedgerEntry, **_: Any) -> dict[str, Any]:
        return {**entry.event, "committed_at": entry.committed_at, "attempts": entry.attempts}


class AuditPageSchema(PageSchema):
    example = documentation.PAGE
    descriptions: ClassVar[Fields] = {
        **PageSchema.descriptions,
        "behind": "How many seconds the list may lack at its newer end, in whole ones. Present only"
        " where it was read from a replica of the database.",
    }

    items = fields.List(fields.Nested(AuditLineSchema), required=True)
    behind = fields.Integer()


class ExcludedPageSchema(Schema):
    example = documentation.EXCLUDED_PAGE
    descriptions = PAGE_FIELDS

    items = fields.List(fields.UUID(), required=True)
    next_cursor = fields.String(required=True, allow_none=True)
    total = fields.Integer(required=True)


class ExcludedQuerySchema(PageQuerySchema):
    model = ExcludedQuery


class AuditQuerySchema(PageQuerySchema):
    model = AuditQuery
    descriptions = documentation.AUDIT_QUERY_FIELDS

    sort = fields.String(load_default="-occurred_at", validate=_one_of(SortKey))
    actor = Text(
        load_default=None,
        validate=validate.Length(1, 320),
        metadata={"description": "Only events of the user with this e-mail address."},
    )
    surface = fields.String(
        load_default=None,
        validate=SURFACES,
        metadata={"description": "Only this surface, or those that begin with a prefix and `.*`."},
    )
    tenant = Text(
        load_default=None,
        validate=validate.Length(1, 200),
        metadata={"description": "Only events in the scope of the tenant with this slug."},
    )
    reason = Text(
        load_default=None,
        validate=validate.Length(1, 64),
        metadata={"description": "Only events with this reason code."},
    )
    ticket = Text(
        load_default=None,
        validate=validate.Length(1, 128),
        metadata={"description": "Only events whose reason names this ticket."},
    )
    effect = fields.String(
        load_default=None,
        validate=_one_of(Ruling),
        metadata={"description": "Only events with this decision."},
    )
    outcome = fields.String(
        load_default=None,
        validate=_one_of(Outcome),
        metadata={"description": "Only events that came out like this."},
    )
    kind = fields.String(
        load_default=None,
        validate=_one_of(Kind),
        metadata={"description": "Only accesses, or only changes."},
    )
    request_id = Text(
        load_default=None,
        validate=validate.Length(1, 128),
        metadata={"description": "Only events of the request with this id."},
    )
    begins = Instant(
        load_default=None,
        data_key="from",
        metadata={"description": "Only events from this moment on (ISO 8601, with an offset)."},
    )
    ends = Instant(
        load_default=None,
        data_key="to",
        metadata={"description": "Only events before this moment (ISO 8601, with an offset)."},
    )
    grouped = FlagText(
        load_default=None,
        metadata={
            "description": "Whether a stranger's refused attempts that are alike make one line. By"
            " default they do in a tenant's scope."
        },
    )
