"""Descriptions of a reason's fields, for the API's description."""

from webapp.http.schema import Fields

GIVEN_REASON_FIELDS: Fields = {
    "code": "What kind of reason it is.",
    "ticket": "The ticket that it is about.",
    "note": "More, in your own words.",
}
