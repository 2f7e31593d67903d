"""Examples and field descriptions for rules in the API's description.

The examples show a rule of the demo's tenant `acme`, and its history.
"""

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
    "roles": "People who hold one of these roles.",
    "users": "People with one of these e-mail addresses.",
}
WINDOW_FIELDS: Fields = {
    "days": "The days on which the window begins.",
    "begins": "`HH:MM`, in local time.",
    "ends": "`HH:MM`. If it is earlier than `from`, the window runs past midnight.",
    "tz": "An IANA time zone.",
}
RULE_FIELDS: Fields = {
    "tenant": "The slug of the tenant that owns the rule; null for the platform.",
    "name": "The rule's name, unique among the owner's rules that are not deleted.",
    "effect": "What the rule does with an access that it covers.",
    "subjects": "The people whom the rule covers. If both lists are empty: everybody.",
    "surfaces": "The surfaces that the rule covers: names, prefixes with `.*`, or `*`.",
    "reasons": "The reasons that the rule covers. If the list is empty: any reason.",
    "ticket": "A pattern for the ticket, with `*` for any characters. Null: any ticket, or none.",
    "windows": "The times at which the rule applies. If the list is empty: any time.",
    "networks": "The networks that the rule covers, in CIDR notation. If empty: any address.",
    "mfa": "Whether the rule requires a second factor.",
    "max_minutes": "For how many minutes an access or a grant may last. Null: no limit.",
    "min_approvals": "How many people must approve, if the rule requires an approval.",
    "approver_roles": "Who may approve. If empty: the tenant's admins or the platform's owners.",
    "enabled": "Whether the rule counts.",
    "starts_at": "The time from which the rule counts. Null: no limit.",
    "ends_at": "The time until which the rule counts. Null: no limit.",
    "version": "1 at first, and one more after each change.",
    "created_by": "The e-mail address of the person who added the rule.",
    "updated_by": "The e-mail address of the person who changed the rule last.",
}
RULE_VERSION_FIELDS: Fields = {
    "change": "What was done to the rule.",
    "changed_by": "The e-mail address of the person who did it.",
    "rule": "The rule after this change.",
}
RULE_CREATE_FIELDS: Fields = {
    "tenant": "The slug of the tenant that owns the rule. In the scope `global`, null or absent"
    " means the platform.",
}
RULE_QUERY_FIELDS: Fields = {
    "sort": "The order; `-` means descending.",
    "tenant": "Only rules of the tenant with this slug.",
    "effect": "Only rules with this effect.",
    "surface": "Only rules that cover this surface.",
    "enabled": "Only rules that are enabled, or only rules that are not.",
    "q": "Only rules with this text in their name or description.",
}
