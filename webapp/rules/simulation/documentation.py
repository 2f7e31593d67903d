"""Examples and field descriptions for simulations in the API's description.

In the examples a draft rule is tried on the accesses of the last month.
"""

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
        "covered_from": "2026-10-29T21:41:00+00:00",
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

QUEUED: dict[str, Any] = {
    "id": "01937c31-5d20-7b0c-9a55-8d4e6f1a2b3c",
    "state": "done",
    "asked_at": "2026-11-28T21:41:00.000000+00:00",
    "until": "2026-11-28T22:41:07.000000+00:00",
    "past": SIMULATION["past"],
    "problem": None,
}

DESCRIBED_ACCESS_FIELDS: Fields = {
    "email": "The e-mail address of the person who makes the access.",
    "roles": "The roles that the person holds.",
    "mfa": "Whether the person has shown a second factor.",
    "surface": "The surface that the person uses.",
    "reason": "The code of the person's reason.",
    "ticket": "The ticket of the person's reason.",
    "ip": "The person's IP address; null or absent if it is unknown.",
}
SIMULATE_FIELDS: Fields = {
    "rule": "The draft; null or absent if a rule is removed.",
    "replaces": "The id of the rule that the draft replaces or that is removed.",
    "remove": "Whether the rule that `replaces` names is removed.",
    "access": "An access to try the draft on.",
    "days": "Try the draft on the recorded accesses of this many days.",
}
DECISION_VIEW_FIELDS: Fields = {
    "effect": "The decision.",
    "explanation": "Why, in a sentence.",
    "named": "The rules that the explanation names.",
    "rule_ids": "The rules that decided.",
    "excluded_count": "How many tenants an access to all leaves out. Null in a tenant's scope.",
    "excluded_tenant_ids": "Which tenants an access to all leaves out. Null in a tenant's scope.",
    "excluded": "Whether an access to all leaves this tenant out. Null in the scope `global`.",
}
COMPARISON_FIELDS: Fields = {
    "before": "The decision by the current rules.",
    "after": "The decision with the draft, or without the rule that is removed.",
}
SHIFT_FIELDS: Fields = {
    "accesses": "How many accesses changed in this way.",
}
AFFECTED_FIELDS: Fields = {
    "actor": "The e-mail address of a person.",
    "accesses": "How many of this person's accesses would change.",
}
CHANGED_FIELDS: Fields = {
    "id": "The id of the access's audit event.",
}
REPLAY_FIELDS: Fields = {
    "examined": "How many accesses were tried.",
    "changed": "How many accesses would be decided differently.",
    "truncated": "Whether there were more accesses, of which only the newest were tried.",
    "covered_from": "All accesses from this moment on were tried.",
    "shifts": "The changes, counted by the decision before and after.",
    "actors": "The people whose accesses would change.",
    "accesses": "Accesses that would change.",
}
SIMULATION_FIELDS: Fields = {
    "access": "The decisions on the described access; null if past accesses were tried.",
    "past": "What would change of past accesses; null if a described access was tried.",
}
QUEUED_FIELDS: Fields = {
    "id": "Its id.",
    "state": "`queued` and `running`: ask again. `done`: `past` has the result.",
    "asked_at": "When it was asked for.",
    "until": "When it counts as failed, if it is not done; otherwise when it is forgotten.",
    "past": "What would change of past accesses; null until it is done.",
    "problem": "Why it has failed; otherwise null.",
}
