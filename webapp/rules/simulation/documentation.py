"""Examples for the API's description: a draft rule, tried on the accesses of the last month."""

from typing import Any

from webapp.http.schema import Fields
from webapp.rules.documentation import DRAFT

REQUEST: dict[str, Any] = {"rule": DRAFT, "days": 30}
SIMULATION: dict[str, Any] = {
    "access": None,
    "past": {
        "examined": 42,
        "changed": 1,
        "truncated": False,
        "shifts": [{"before": "allowed", "after": "approval_required", "accesses": 1}],
        "actors": [{"actor": "engineer@sightline.example", "accesses": 1}],
        "accesses": [
            {
                "id": "01937c31-02aa-7c55-9c11-1f4f9f3f6f10",
                "occurred_at": "2026-11-28T21:40:03.118245+00:00",
                "actor": "engineer@sightline.example",
                "surface": "billing.invoices.list",
                "reason": "incident",
                "before": "allowed",
                "after": "approval_required",
            }
        ],
    },
}

DESCRIBED_ACCESS_FIELDS: Fields = {
    "email": "Who makes the access.",
    "roles": "The roles that they hold.",
    "mfa": "Whether they have shown a second factor.",
    "surface": "What they access.",
    "reason": "The code of their reason.",
    "ticket": "The ticket of their reason.",
    "ip": "Where they are; null, or absent: unknown.",
}
SIMULATE_FIELDS: Fields = {
    "rule": "The draft; null, or absent, where a rule is removed.",
    "replaces": "The id of the rule that the draft replaces or that is removed.",
    "remove": "Whether the rule of `replaces` is removed.",
    "access": "An access to try it on.",
    "days": "Try it on the accesses of this many days.",
}
DECISION_VIEW_FIELDS: Fields = {
    "effect": "The decision.",
    "explanation": "Why, in a sentence.",
    "rule_ids": "The rules that made it so.",
    "excluded_count": "How many tenants an access to all leaves out; null in a tenant's scope.",
    "excluded_tenant_ids": "Which tenants an access to all leaves out; null in a tenant's scope.",
    "excluded": "Whether an access to all leaves this tenant out; null in the scope `global`.",
}
COMPARISON_FIELDS: Fields = {
    "before": "By the rules there are.",
    "after": "With the draft, or without the rule that is removed.",
}
SHIFT_FIELDS: Fields = {
    "accesses": "How many accesses changed in this way.",
}
AFFECTED_FIELDS: Fields = {
    "actor": "An e-mail address.",
    "accesses": "How many of their accesses would change.",
}
CHANGED_FIELDS: Fields = {
    "id": "The id of the access's audit event.",
}
REPLAY_FIELDS: Fields = {
    "examined": "How many accesses were tried.",
    "changed": "How many would be decided otherwise.",
    "truncated": "Whether there were more accesses than were tried: the newest were.",
    "shifts": "The changes, by what was decided and what would be.",
    "actors": "Whose accesses would change.",
    "accesses": "Accesses that would change.",
}
SIMULATION_FIELDS: Fields = {
    "access": "The described access; null where past accesses were tried.",
    "past": "The past accesses; null where a described one was tried.",
}
