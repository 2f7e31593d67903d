"""Examples for the API's description: an engineer asks to see invoices of `acme`, and may."""

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
    "by": "The e-mail address of who approved.",
    "roles": "The roles in which they did.",
}
GRANT_FIELDS: Fields = {
    "kind": "Asked for and approved, or taken by using break-glass.",
    "holder": "The e-mail address of whoever may access.",
    "tenant": "The slug of the tenant it is for; null for an access to all tenants.",
    "minutes": "For how long it is, once it begins.",
    "rules": "The rules that asked for the approval, or that allowed break-glass.",
    "requested_at": "When it was asked for or taken.",
    "starts_at": "When it began; null while it waits for approvals.",
    "ends_at": "When it ends; while it waits for approvals, when the request lapses.",
    "closed_at": "When it was denied, revoked or had expired.",
    "closed_by": "The e-mail address of who denied or revoked it.",
    "reviewed_at": "When the use of break-glass was reviewed.",
    "reviewed_by": "The e-mail address of who reviewed it.",
    "review": "What the review found.",
    "version": "1, and one more with each change.",
}
APPROVABLE_REASON_FIELDS: Fields = {
    "code": "Any code but `break_glass`, which is not asked for.",
}
ASK_FIELDS: Fields = {
    "surfaces": "What you want to access.",
    "tenants": "The slugs of the tenants; null for an access to all of them.",
    "reason": "Why.",
    "minutes": "For how long, once it is approved.",
}
REVIEW_FIELDS: Fields = {
    "text": "What the review found.",
}
GRANT_QUERY_FIELDS: Fields = {
    "sort": "In which order; `-` is descending.",
    "tenant": "Only those for the tenant of this slug.",
    "state": "Only those in this state.",
    "kind": "Only those of this kind.",
    "holder": "Only those of whoever has this e-mail address.",
}
