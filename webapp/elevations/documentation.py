"""Examples and field descriptions for elevations in the API's description.

In the examples a back office asks on behalf of somebody from support.
"""

from typing import Any

from webapp.http.schema import Fields

REQUEST: dict[str, Any] = {
    "principal": {"email": "jo@example.org", "mfa": True},
    "surface": "shop.invoices.list",
    "tenant": "acme",
    "reason": {
        "code": "support_case",
        "ticket": "T-1042",
        "note": "says that an invoice is missing",
    },
    "ip": "203.0.113.9",
}
ELEVATION: dict[str, Any] = {
    "decision": "allowed",
    "elevated": True,
    "explanation": "The platform's rule “Staff access” allows it.",
    "named": [
        {"id": "3b1cd4c5-3a43-4e8e-b4a8-6a1d9bd0a0c5", "owner": None, "name": "Staff access"}
    ],
    "rules": ["3b1cd4c5-3a43-4e8e-b4a8-6a1d9bd0a0c5"],
    "excluded": {"count": 0, "tenants": []},
    "grants": [],
    "until": "2026-11-30T13:34:56.789012+00:00",
    "minutes": 60,
    "ask": None,
    "receipt": "019aba33-5d0e-7c55-9c11-1f4f9f3f6f10",
    "policy_version": 12,
}

PERSON_FIELDS: Fields = {
    "email": "The person's e-mail address. Sightline finds the roles that they hold.",
    "mfa": "Whether the person has shown a second factor to your service.",
}
ELEVATION_REQUEST_FIELDS: Fields = {
    "principal": "The person.",
    "surface": "What the person wants to access, by a name of your choice.",
    "tenant": "The tenant's slug; null for all tenants.",
    "reason": "Why the person wants to access it.",
    "ip": "The person's IP address; null or absent if it is unknown.",
}
EXCLUDED_FIELDS: Fields = {
    "count": "How many tenants are left out.",
    "tenants": "The tenants that are left out.",
}
ELEVATION_FIELDS: Fields = {
    "decision": "The decision.",
    "elevated": "Whether the access is beyond the person's own tenant.",
    "explanation": "Why, in a sentence to show to the person.",
    "named": "The rules that the explanation names.",
    "rules": "The rules that decided.",
    "excluded": "The tenants that an access to all tenants must leave out.",
    "grants": "The grants that the decision rests on: approvals, or a break-glass incident.",
    "until": "When the permission ends: the earliest end of what it rests on, a day after the"
    " answer at the latest. Then ask again, with another key. Null where nothing is allowed.",
    "minutes": "How many whole minutes that is from the first answer to this question.",
    "ask": "The path at which to ask for an approval; null if none is needed.",
    "receipt": "The id of the audit event.",
    "policy_version": "The version of the rules that decided.",
}
