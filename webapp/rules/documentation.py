"""Examples for the API's description: a rule of the demo's tenant `acme`, and what became of it."""

from typing import Any

from webapp.http.schema import Fields

RULE_ID = "01937c2e-8d10-7a43-9b5f-2c6d8e0f1a3b"

DRAFT: dict[str, Any] = {
    "name": "Invoices: incidents need an approval",
    "description": "Whoever is on call with us says yes, at any hour.",
    "effect": "require_approval",
    "subjects": {"roles": ["engineer"], "users": []},
    "surfaces": ["billing.invoices.*"],
    "reasons": ["incident", "maintenance"],
    "ticket": "INC-*",
    "windows": [
        {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "18:00", "to": "08:00", "tz": "UTC"}
    ],
    "networks": ["10.20.0.0/16"],
    "mfa": True,
    "max_minutes": 60,
    "min_approvals": 1,
    "approver_roles": ["admin"],
    "enabled": True,
    "starts_at": None,
    "ends_at": None,
}
PATCH: dict[str, Any] = {"enabled": False}
RULE: dict[str, Any] = {
    "id": RULE_ID,
    "tenant": "acme",
    **DRAFT,
    "version": 1,
    "created_at": "2026-11-30T09:12:45.204183+00:00",
    "created_by": "acme-admin@sightline.example",
    "updated_at": "2026-11-30T09:12:45.204183+00:00",
    "updated_by": "acme-admin@sightline.example",
}
PAGE: dict[str, Any] = {"items": [RULE], "next_cursor": None, "total": 1}
HISTORY: dict[str, Any] = {
    "items": [
        {
            "version": 1,
            "change": "created",
            "changed_at": RULE["created_at"],
            "changed_by": RULE["created_by"],
            "rule": RULE,
        }
    ],
    "next_cursor": None,
    "total": 1,
}

SUBJECTS_FIELDS: Fields = {
    "roles": "Whoever holds one of these roles.",
    "users": "Whoever has one of these e-mail addresses.",
}
WINDOW_FIELDS: Fields = {
    "days": "The days on which it begins.",
    "begins": "`HH:MM`, in the time zone's own time.",
    "ends": "`HH:MM`; earlier than `from`, it runs past midnight.",
    "tz": "An IANA time zone.",
}
RULE_FIELDS: Fields = {
    "tenant": "The slug of the tenant whose rule it is; null for the platform's.",
    "name": "Unique among the rules of its tenant that are not deleted.",
    "effect": "What it does with an access that it covers.",
    "subjects": "Whom it covers; everybody where both lists are empty.",
    "surfaces": "What it covers: surfaces, prefixes with `.*`, or `*`.",
    "reasons": "For which reasons; for any where the list is empty.",
    "ticket": "A pattern for the ticket, with `*` for any characters; null for any or none.",
    "windows": "When it applies; at any time where the list is empty.",
    "networks": "From where, in CIDR notation; from anywhere where the list is empty.",
    "mfa": "Whether it asks for a second factor.",
    "max_minutes": "For how long an access or a grant may last; null for no limit of its own.",
    "min_approvals": "How many have to approve, where it asks for approvals.",
    "approver_roles": "Who may approve; empty: the tenant's admins or the platform's owners.",
    "enabled": "Whether it counts.",
    "starts_at": "From when on it counts; null for always.",
    "ends_at": "Until when it counts; null for ever.",
    "version": "1, and one more with each change.",
    "created_by": "The e-mail address of who made it.",
    "updated_by": "The e-mail address of who changed it last.",
}
RULE_VERSION_FIELDS: Fields = {
    "change": "What was done to it.",
    "changed_by": "The e-mail address of who did it.",
    "rule": "The rule as it was then.",
}
RULE_CREATE_FIELDS: Fields = {
    "tenant": "The slug of the tenant whose rule it is; in the scope `global`, null or absent"
    " for the platform's.",
}
RULE_QUERY_FIELDS: Fields = {
    "sort": "In which order; `-` is descending.",
    "tenant": "Only the rules of the tenant of this slug.",
    "effect": "Only rules of this effect.",
    "surface": "Only rules that cover this surface.",
    "enabled": "Only rules that count, or only those that do not.",
    "q": "Only rules that have this in their name or description.",
}
