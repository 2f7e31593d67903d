"""Examples and field descriptions for grants in the API's description.

In the examples an engineer asks for access to the invoices of `acme`, and gets an approval.
"""

from typing import Any

from webapp.http.schema import Fields

REQUEST: dict[str, Any] = {
    "surfaces": ["billing.invoices.list"],
    "tenants": ["acme"],
    "reason": {"code": "incident", "ticket": "INC-4711", "note": "invoices are missing"},
    "minutes": 60,
}
REQUESTED: dict[str, Any] = {
    "id": "01937c33-6b20-7d14-8e02-9a7b6c5d4e3f",
    "kind": "approval",
    "holder": "engineer@sightline.example",
    "tenant": "acme",
    "surfaces": REQUEST["surfaces"],
    "reason": REQUEST["reason"],
    "minutes": REQUEST["minutes"],
    "rules": ["01937c2e-8d10-7a43-9b5f-2c6d8e0f1a3b"],
    "state": "requested",
    "approvals": [],
    "requested_at": "2026-11-30T10:02:11.530127+00:00",
    "starts_at": None,
    "ends_at": "2026-12-01T10:02:11.530127+00:00",
    "closed_at": None,
    "closed_by": None,
    "reviewed_at": None,
    "reviewed_by": None,
    "review": None,
    "version": 1,
}
APPROVED: dict[str, Any] = REQUESTED | {
    "state": "approved",
    "approvals": [
        {
            "by": "acme-admin@sightline.example",
            "roles": ["admin"],
            "approved_at": "2026-11-30T10:05:42.007311+00:00",
        }
    ],
    "starts_at": "2026-11-30T10:05:42.007311+00:00",
    "ends_at": "2026-11-30T11:05:42.007311+00:00",
    "version": 2,
}
GRANTS: dict[str, Any] = {"items": [REQUESTED]}
PAGE: dict[str, Any] = {"items": [APPROVED], "next_cursor": None, "total": 1}
REVIEW: dict[str, Any] = {"text": "The outage was real; only the invoices named were opened."}

APPROVAL_FIELDS: Fields = {
    "by": "The approver's e-mail address.",
    "roles": "The roles that the approver held at the time.",
}
GRANT_FIELDS: Fields = {
    "kind": "`approval` for a grant that others approve; `break_glass` for an incident.",
    "holder": "The e-mail address of the person who may access.",
    "tenant": "The tenant's slug; null for a grant at all tenants.",
    "minutes": "For how many minutes the grant lasts, once it begins.",
    "rules": "The rules that require the approval, or that allowed break-glass.",
    "requested_at": "When the grant was requested, or when break-glass was used.",
    "starts_at": "When the grant began; null while it waits for approvals.",
    "ends_at": "When the grant ends. While it waits for approvals: when the request lapses.",
    "closed_at": "When the grant was denied, was revoked or expired.",
    "closed_by": "The e-mail address of the person who denied or revoked the grant.",
    "reviewed_at": "When the use of break-glass was reviewed.",
    "reviewed_by": "The reviewer's e-mail address.",
    "review": "What the review found.",
    "version": "1 at first, and one more after each change.",
}
APPROVABLE_REASON_FIELDS: Fields = {
    "code": "Any code except `break_glass`, which needs no request.",
}
ASK_FIELDS: Fields = {
    "surfaces": "The surfaces that you want to use.",
    "tenants": "The tenants' slugs; null for one grant at all tenants.",
    "reason": "Why you want access.",
    "minutes": "For how many minutes, once the request is approved.",
}
REVIEW_FIELDS: Fields = {
    "text": "What the review found.",
}
GRANT_QUERY_FIELDS: Fields = {
    "sort": "The order; `-` means descending.",
    "tenant": "Only grants at the tenant with this slug.",
    "state": "Only grants in this state.",
    "kind": "Only grants of this kind.",
    "holder": "Only grants of the person with this e-mail address.",
}
