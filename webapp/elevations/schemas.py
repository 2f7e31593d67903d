"""Schemas of elevations, and of the idempotency key."""

import re
from typing import Any, get_args

import http_sf
from marshmallow import ValidationError, fields, validate

from webapp.audit.event import Ruling
from webapp.elevations import documentation
from webapp.elevations.elevation import (
    Elevation,
    ElevationRequest,
    Excluded,
    ExcludedTenant,
    Person,
)
from webapp.http.errors import NamedRuleSchema
from webapp.http.schema import ADDRESS, Flag, Schema, Text, TupleOf
from webapp.scope.schemas import EMAIL, SLUG, SURFACE, GivenReasonSchema

KEY_HEADER = "Idempotency-Key"
MAX_KEY = 128

_BARE_KEY = re.compile(r"[\w!#$%&'*+.^`|~:/=-]{1,128}", re.ASCII)


class Key(fields.String):
    """The idempotency key: a quoted string of RFC 9651, or a bare one, as many clients send it."""

    def _deserialize(self, *args: Any, **kwargs: Any) -> str:
        header: str = super()._deserialize(*args, **kwargs)
        if not header.startswith('"'):
            key = header if _BARE_KEY.fullmatch(header) else ""
        else:
            key = _unquoted(header)
        if not 0 < len(key) <= MAX_KEY:
            raise ValidationError(
                f"Must be a string of 1 to {MAX_KEY} printable ASCII characters, in quotes unless"
                " it has only letters, digits and !#$%&'*+-.^_`|~:/= in it."
            )
        return key


def _unquoted(header: str) -> str:
    try:
        item: Any = http_sf.parse(header.encode("latin-1"), tltype="item")
        value, parameters = item
    except ValueError:  # also raised for characters beyond Latin-1
        return ""
    return value if isinstance(value, str) and not parameters else ""


class KeySchema(Schema):
    key = Key(
        required=True,
        data_key=KEY_HEADER,
        metadata={
            "description": "Names the question. The same key always gets the same answer.",
            "example": '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
        },
    )


class PersonSchema(Schema):
    model = Person
    descriptions = documentation.PERSON_FIELDS

    email = Text(required=True, validate=EMAIL)
    mfa = Flag(load_default=False)


class ElevationRequestSchema(Schema):
    model = ElevationRequest
    example = documentation.REQUEST
    descriptions = documentation.ELEVATION_REQUEST_FIELDS

    principal = fields.Nested(PersonSchema, required=True)
    surface = fields.String(required=True, validate=SURFACE)
    tenant = fields.String(required=True, allow_none=True, validate=SLUG)
    reason = fields.Nested(GivenReasonSchema, required=True)
    ip = fields.String(load_default=None, allow_none=True, validate=ADDRESS)


class ExcludedTenantSchema(Schema):
    model = ExcludedTenant

    id = fields.UUID(required=True)
    slug = fields.String(required=True)


class ExcludedSchema(Schema):
    model = Excluded
    descriptions = documentation.EXCLUDED_FIELDS

    count = fields.Integer(required=True)
    tenants = TupleOf(fields.Nested(ExcludedTenantSchema), required=True)


class ElevationSchema(Schema):
    model = Elevation
    example = documentation.ELEVATION
    descriptions = documentation.ELEVATION_FIELDS

    decision = fields.String(required=True, validate=validate.OneOf(get_args(Ruling)))
    elevated = fields.Boolean(required=True)
    explanation = fields.String(required=True)
    named = TupleOf(fields.Nested(NamedRuleSchema), required=True)
    rules = TupleOf(fields.UUID(), required=True)
    excluded = fields.Nested(ExcludedSchema, required=True)
    grants = TupleOf(fields.UUID(), required=True)
    until = fields.AwareDateTime(required=True, allow_none=True)
    minutes = fields.Integer(required=True, allow_none=True)
    ask = fields.String(required=True, allow_none=True)
    receipt = fields.UUID(required=True)
    policy_version = fields.Integer(required=True, allow_none=True)
