"""Examples for the API's description: an engineer's access to the rules of `acme`."""

from typing import Any

from webapp.http.schema import Fields

AUDIT: dict[str, Any] = {
    "id": "01937c35-11f0-7b62-a0c4-5d6e7f809102",
    "occurred_at": "2026-11-30T10:07:15.312044Z",
    "kind": "access",
    "actor": {
        "id": "01937c20-44aa-7e01-8b3c-0d1e2f3a4b5c",
        "email": "engineer@sightline.example",
        "mfa": True,
        "roles": ["engineer"],
        "token_id": "01937c20-44ab-7e01-8b3c-0d1e2f3a4b5c",
    },
    "surface": "admin.rules.list",
    "reason": {"code": "incident", "ticket": "INC-4711", "note": None},
    "scope": {
        "kind": "tenant",
        "tenant_id": "01937c1f-9c00-7a10-9d2e-3f4a5b6c7d8e",
        "tenant": "acme",
    },
    "decision": {
        "effect": "allowed",
        "rule_ids": ["01937c2d-0d10-7a43-9b5f-2c6d8e0f1a3b"],
        "policy_version": 71,
        "grant_ids": [],
        "excluded_tenant_ids": [],
    },
    "outcome": "served",
    "http_status": 200,
    "rows": 50,
    "repeats": 1,
    "request": {
        "id": "01937c35-11ee-7b62-a0c4-5d6e7f809102",
        "method": "GET",
        "path": "/admin/api/rules",
        "ip": "203.0.113.9",
        "user_agent": "curl/8.5.0",
    },
    "origin": {"journal": "01937c1e-0a00-7a10-9d2e-3f4a5b6c7d8e", "seq": 118},
    "committed_at": "2026-11-30T10:07:15.398127+00:00",
}
PAGE: dict[str, Any] = {"items": [AUDIT], "next_cursor": None, "total": 1}

ACTOR_FIELDS: Fields = {
    "mfa": "Whether a second factor had been shown.",
    "token_id": "The token that was used; null for a command.",
}
REASON_FIELDS: Fields = {
    "code": "`incident`, `support_case`, `fraud`, `legal`, `maintenance` or `break_glass`.",
}
SCOPE_FIELDS: Fields = {
    "tenant_id": "Null where no tenant has this slug, and for all tenants.",
    "tenant": "The slug that was asked for; null for all tenants.",
}
DECISION_FIELDS: Fields = {
    "rule_ids": "The rules that made it so.",
    "policy_version": "Grows with each change of a rule that was asked; null where none was.",
    "grant_ids": "The grants that it rests on, and the one that a change is about.",
    "excluded_tenant_ids": "The tenants that an access to all of them left out.",
}
REQUEST_FIELDS: Fields = {
    "id": "The `X-Request-ID` of its answer.",
    "path": "The path, or of a command its words.",
    "ip": "The address that connected, or of another service's access the person's.",
}
ORIGIN_FIELDS: Fields = {
    "journal": "Where the event was first written: the journal of a web process.",
    "seq": "Its number there, from 1 without a gap.",
}
AUDIT_FIELDS: Fields = {
    "kind": "Whether something was read or changed.",
    "surface": "Where: the surface that was used.",
    "reason": "Why; null only for a change in one's own tenant.",
    "outcome": "What became of it; `interrupted` is an access that died before its answer.",
    "http_status": "Of the answer; null where it was interrupted.",
    "rows": "How many rows the answer showed; null where none were counted.",
    "repeats": "How often the surface was used in the request.",
    "origin": "Where the event was first written.",
    "committed_at": "When it came into the ledger.",
}
AUDIT_QUERY_FIELDS: Fields = {
    "sort": "In which order; `-` is descending.",
    "actor": "Only those of whoever has this e-mail address.",
    "surface": "Only those of this surface, or of a prefix with `.*`.",
    "tenant": "Only those at the tenant of this slug.",
    "reason": "Only those for a reason of this code.",
    "ticket": "Only those for this ticket.",
    "effect": "Only those that were decided in this way.",
    "outcome": "Only those with this outcome.",
    "kind": "Only accesses, or only changes.",
    "request_id": "Only those of this request.",
    "begins": "From this moment on.",
    "ends": "Before this moment.",
}
