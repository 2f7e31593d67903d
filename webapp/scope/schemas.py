"""Wire fields of accesses that features share: tenants, surfaces and reasons."""

from marshmallow import fields, validate

from webapp.http.schema import FullMatch, Schema, Text
from webapp.identity.principal import MAX_EMAIL
from webapp.scope import documentation
from webapp.scope.headers import MAX_NOTE, MAX_TICKET, REASON_CODES, Reason

MAX_SURFACE = 200
MAX_SLUG = 63
SLUG = [
    validate.Length(1, MAX_SLUG),
    FullMatch(r"^[a-z0-9][a-z0-9-]*$", error="Must be a tenant's slug."),
]
EMAIL = [
    validate.Length(3, MAX_EMAIL),
    FullMatch(r"^[^\s@]+@[^\s@]+$", error="Must be an e-mail address."),
]
SURFACE = [
    validate.Length(1, MAX_SURFACE),
    FullMatch(r"^[a-z0-9_]+(\.[a-z0-9_]+)*$", error="Must be a surface, without `*`."),
]
SURFACES = [
    validate.Length(1, MAX_SURFACE),
    FullMatch(
        r"^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$",
        error="Must be a surface, or a prefix and `.*`.",
    ),
]
"""The validators of a pattern of surfaces, in a rule or a filter."""


class GivenReasonSchema(Schema):
    """A reason for an access, with the same fields as the header `Sightline-Reason`."""

    model = Reason
    descriptions = documentation.GIVEN_REASON_FIELDS

    code = fields.String(required=True, validate=validate.OneOf(REASON_CODES))
    ticket = Text(load_default=None, allow_none=True, validate=validate.Length(1, MAX_TICKET))
    note = Text(load_default=None, allow_none=True, validate=validate.Length(1, MAX_NOTE))
