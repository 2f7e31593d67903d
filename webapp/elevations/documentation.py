"""Examples for the API's description: a back office asks for somebody from support."""

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
    "rules": ["3b1cd4c5-3a43-4e8e-b4a8-6a1d9bd0a0c5"],
    "excluded": {"count": 0, "tenants": []},
    "grants": [],
    "minutes": None,
    "ask": None,
    "receipt": "019aba33-5d0e-7c55-9c11-1f4f9f3f6f10",
    "policy_version": 12,
}

PERSON_FIELDS: Fields = {
    "email": "Who wants to access. Sightline looks up which roles they hold.",
    "mfa": "Whether they have shown a second factor to you.",
}
ELEVATION_REQUEST_FIELDS: Fields = {
    "principal": "The person.",
    "surface": "What they want to access, in a name of your choice.",
    "tenant": "A slug; null for all tenants.",
    "reason": "Why.",
    "ip": "Where the person is; null, or absent: unknown.",
}
EXCLUDED_FIELDS: Fields = {
    "count": "How many.",
    "tenants": "Which.",
}
ELEVATION_FIELDS: Fields = {
    "decision": "What was decided.",
    "elevated": "Whether it is beyond the person's own tenant.",
    "explanation": "Why, in a sentence to show to the person.",
    "rules": "The rules that made it so.",
    "excluded": "The tenants that an access to all of them has to leave out.",
    "grants": "What it rests on: approvals, or the incident of break-glass.",
    "minutes": "For how long at most, before you ask again; null where no rule says.",
    "ask": "Where to ask for an approval; null where none is needed.",
    "receipt": "The id of the audit event; null where nothing was recorded.",
    "policy_version": "Of the rules that were asked.",
}
