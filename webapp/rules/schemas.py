"""Schemas of rules, on the wire and in the cache. Each loads into its frozen dataclass.

The schemas of drafts check what clients write. The other schemas do not check it again, so that
older rules can still be listed after a check has become stricter.
"""

import ipaddress
from datetime import datetime
from typing import Any, get_args

from marshmallow import ValidationError, fields, missing, validate

from webapp.http.pagination import PageQuerySchema, PageSchema
from webapp.http.schema import (
    PAGE_FIELDS,
    Flag,
    FlagText,
    FullMatch,
    Instant,
    Schema,
    Text,
    TupleOf,
    Whole,
)
from webapp.identity.principal import PLATFORM_ROLES, STAFF_ROLES, TENANT_ROLES
from webapp.rules import documentation
from webapp.rules.engine.templates import time_zones
from webapp.rules.rule import (
    Change,
    Day,
    Effect,
    HistoryQuery,
    Rule,
    RuleHistory,
    RulePage,
    RuleQuery,
    RuleVersion,
    SortKey,
    Subjects,
    Window,
)
from webapp.scope.headers import REASON_CODES
from webapp.scope.schemas import SLUG, SURFACES

MAX_ENTRIES = 20
"""How many entries a client may write into each list of a rule. Older rules may have more."""

APPROVER_ROLES = (*STAFF_ROLES, "admin")
"""Roles that a rule may name as approvers. All of them can see requests for grants."""

CLOCK = [
    validate.Length(5, 5),
    FullMatch(r"^([01][0-9]|2[0-3]):[0-5][0-9]$", error="Must be a time as HH:MM."),
]
FEW = validate.Length(max=MAX_ENTRIES)


def _is_network(value: str) -> None:
    try:
        network = ipaddress.ip_network(value)
    except ValueError as error:
        raise ValidationError("Must be a network in CIDR notation, host bits zero.") from error
    if getattr(network.network_address, "scope_id", None) is not None:
        raise ValidationError("Must have no zone.")


def _is_time_zone(value: str) -> None:
    if value not in time_zones():
        raise ValidationError("Must be an IANA time zone, as in Europe/Berlin.")


def _is_near(value: datetime) -> None:
    """Refuse times near the ends of Python's and PostgreSQL's calendars, for any offset."""
    if not 1970 <= value.year < 9000:
        raise ValidationError("Must be between the years 1970 and 9000.")


class SubjectsSchema(Schema):
    model = Subjects
    descriptions = documentation.SUBJECTS_FIELDS

    roles = TupleOf(fields.String(), required=True)
    users = TupleOf(fields.String(), required=True)


class WindowSchema(Schema):
    model = Window
    descriptions = documentation.WINDOW_FIELDS

    days = TupleOf(fields.String(), required=True)
    begins = fields.String(required=True, data_key="from")
    ends = fields.String(required=True, data_key="to")
    tz = fields.String(required=True)


class RuleSchema(Schema):
    model = Rule
    example = documentation.RULE
    descriptions = documentation.RULE_FIELDS

    id = fields.UUID(required=True)
    tenant = fields.String(required=True, allow_none=True)
    name = fields.String(required=True)
    description = fields.String(required=True)
    effect = fields.String(required=True, validate=validate.OneOf(get_args(Effect)))
    subjects = fields.Nested(SubjectsSchema, required=True)
    surfaces = TupleOf(fields.String(), required=True)
    reasons = TupleOf(fields.String(), required=True)
    ticket = fields.String(required=True, allow_none=True)
    windows = TupleOf(fields.Nested(WindowSchema), required=True)
    networks = TupleOf(fields.String(), required=True)
    mfa = fields.Boolean(required=True)
    max_minutes = fields.Integer(required=True, allow_none=True)
    min_approvals = fields.Integer(required=True)
    approver_roles = TupleOf(fields.String(), required=True)
    enabled = fields.Boolean(required=True)
    starts_at = fields.AwareDateTime(required=True, allow_none=True)
    ends_at = fields.AwareDateTime(required=True, allow_none=True)
    version = fields.Integer(required=True)
    created_at = fields.AwareDateTime(required=True)
    created_by = fields.String(required=True)
    updated_at = fields.AwareDateTime(required=True)
    updated_by = fields.String(required=True)


class RulePageSchema(PageSchema):
    model = RulePage
    example = documentation.PAGE

    items = TupleOf(fields.Nested(RuleSchema), required=True)


class Recorded(fields.Nested):
    """A field that is dumped as it was stored, whatever fields its schema has now."""

    def _serialize(self, *args: Any, **kwargs: Any) -> Any:
        return args[0]


class RuleVersionSchema(Schema):
    model = RuleVersion
    descriptions = documentation.RULE_VERSION_FIELDS

    version = fields.Integer(required=True)
    change = fields.String(required=True, validate=validate.OneOf(get_args(Change)))
    changed_at = fields.AwareDateTime(required=True)
    changed_by = fields.String(required=True)
    rule = Recorded(RuleSchema, required=True)


class RuleHistorySchema(Schema):
    model = RuleHistory
    example = documentation.HISTORY
    descriptions = PAGE_FIELDS

    items = TupleOf(fields.Nested(RuleVersionSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)
    total = fields.Integer(required=True)


class SubjectsDraftSchema(Schema):
    model = Subjects
    descriptions = documentation.SUBJECTS_FIELDS

    roles = TupleOf(
        fields.String(validate=validate.OneOf((*PLATFORM_ROLES, *TENANT_ROLES))),
        load_default=(),
        validate=FEW,
    )
    users = TupleOf(Text(validate=validate.Length(1, 320)), load_default=(), validate=FEW)


class WindowDraftSchema(Schema):
    model = Window
    descriptions = documentation.WINDOW_FIELDS

    days = TupleOf(
        fields.String(validate=validate.OneOf(get_args(Day))),
        required=True,
        validate=validate.Length(1, 7),
    )
    begins = fields.String(required=True, data_key="from", validate=CLOCK)
    ends = fields.String(required=True, data_key="to", validate=CLOCK)
    tz = fields.String(required=True, validate=[validate.Length(1, 64), _is_time_zone])


class RuleDraftSchema(Schema):
    """The fields of a rule that clients write. Loads into a dict, since a patch has only some."""

    descriptions = documentation.RULE_FIELDS

    name = Text(required=True, validate=validate.Length(1, 200))
    description = Text(load_default="", validate=validate.Length(max=4000))
    effect = fields.String(required=True, validate=validate.OneOf(get_args(Effect)))
    subjects = fields.Nested(SubjectsDraftSchema, load_default=Subjects((), ()))
    surfaces = TupleOf(
        fields.String(validate=SURFACES),
        required=True,
        validate=validate.Length(1, MAX_ENTRIES),
    )
    reasons = TupleOf(
        fields.String(validate=validate.OneOf(REASON_CODES)), load_default=(), validate=FEW
    )
    ticket = Text(load_default=None, allow_none=True, validate=validate.Length(1, 128))
    windows = TupleOf(fields.Nested(WindowDraftSchema), load_default=(), validate=FEW)
    networks = TupleOf(
        fields.String(validate=[validate.Length(1, 64), _is_network]), load_default=(), validate=FEW
    )
    mfa = Flag(load_default=False)
    max_minutes = Whole(load_default=None, allow_none=True, validate=validate.Range(1, 7 * 24 * 60))
    min_approvals = Whole(load_default=1, validate=validate.Range(1, 10))
    approver_roles = TupleOf(
        fields.String(validate=validate.OneOf(APPROVER_ROLES)),
        load_default=(),
        validate=FEW,
    )
    enabled = Flag(load_default=True)
    starts_at = Instant(load_default=None, allow_none=True, validate=_is_near)
    ends_at = Instant(load_default=None, allow_none=True, validate=_is_near)


class RuleCreateSchema(RuleDraftSchema):
    example = documentation.DRAFT
    descriptions = documentation.RULE_CREATE_FIELDS

    tenant = fields.String(allow_none=True, validate=SLUG)


class RulePatchSchema(RuleDraftSchema):
    """A change of a rule. An absent field stays as it is; others are replaced as a whole."""

    example = documentation.PATCH

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        field_obj.required = False
        field_obj.load_default = missing


class RuleQuerySchema(PageQuerySchema):
    model = RuleQuery
    descriptions = documentation.RULE_QUERY_FIELDS

    sort = fields.String(load_default="name", validate=validate.OneOf(get_args(SortKey)))
    tenant = fields.String(load_default=None, validate=SLUG)
    effect = fields.String(load_default=None, validate=validate.OneOf(get_args(Effect)))
    surface = fields.String(load_default=None, validate=SURFACES)
    enabled = FlagText(load_default=None)
    q = Text(load_default=None, validate=validate.Length(1, 200))


class HistoryQuerySchema(PageQuerySchema):
    model = HistoryQuery
