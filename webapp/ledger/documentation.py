"""Examples and field descriptions of audit events in the OpenAPI document."""

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
    "via": None,
    "terms": {"tenant": "acme", "enabled": "true"},
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
        "excluded": None,
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
        "x_request_id": None,
    },
    "origin": {"journal": "01937c1e-0a00-7a10-9d2e-3f4a5b6c7d8e", "seq": 118},
    "committed_at": "2026-11-30T10:07:15.398127+00:00",
}
EXCLUDED_PAGE: dict[str, Any] = {
    "items": ["01937c1f-9c00-7a10-9d2e-3f4a5b6c7d8e"],
    "next_cursor": None,
    "total": 1,
}
LINE: dict[str, Any] = {**AUDIT, "attempts": None}
PAGE: dict[str, Any] = {"items": [LINE], "next_cursor": None, "total": 1}

ACTOR_FIELDS: Fields = {
    "mfa": "Whether the person had shown a second factor.",
    "token_id": "The actor's token that was used; null for a command, and where a service asked.",
}
VIA_FIELDS: Fields = {
    "email": "The service's address.",
    "token_id": "The service's token.",
}
REASON_FIELDS: Fields = {
    "code": "`incident`, `support_case`, `fraud`, `legal`, `maintenance` or `break_glass`.",
}
SCOPE_FIELDS: Fields = {
    "tenant_id": "Null where no tenant has this slug, and for all tenants.",
    "tenant": "The slug that was requested; null for all tenants.",
}
DECISION_FIELDS: Fields = {
    "rule_ids": "The rules that determined the decision.",
    "policy_version": "Grows with each change of an evaluated rule; null where none was evaluated.",
    "grant_ids": "The grants that the decision rests on, or the grant that was changed.",
    "excluded": "The tenants that an access in global scope left out; null where none was.",
}
EXCLUDED_TENANTS_FIELDS: Fields = {
    "count": "How many tenants were left out.",
    "digest": "The name of the set of these tenants: the SHA-256 of their ids in order.",
}
REQUEST_FIELDS: Fields = {
    "id": "The `X-Request-ID` of the request's answer.",
    "path": "The request's path, or the command with its arguments.",
    "x_request_id": "The `X-Request-ID` that the client has sent; null where it has sent none.",
    "ip": "The client's address; for an access to another service's data, the person's address.",
}
ORIGIN_FIELDS: Fields = {
    "journal": "The journal that first wrote the event.",
    "seq": "The event's number in that journal, from 1 without a gap.",
}
AUDIT_FIELDS: Fields = {
    "kind": "`access` if something was read, `change` if something was changed.",
    "via": "The service that asked on the actor's behalf; null where none did.",
    "terms": "What was looked for: the parameters of the query, each cut at 320 characters; null"
    " where there were none, and in a tenant's scope of an access to all tenants.",
    "surface": "The surface that was used.",
    "reason": "The reason given; null only for a change in one's own tenant.",
    "outcome": "How the access ended; `interrupted` means that it died before its answer.",
    "http_status": "The status of the answer; null where there was no answer.",
    "rows": "How many rows the answer showed; null where the surface counts none.",
    "repeats": "How often the request used the surface.",
    "origin": "The journal that first wrote the event, and its number there.",
    "committed_at": "When the ledger committed the event.",
}
LINE_FIELDS: Fields = {
    "attempts": "The refused attempts of a stranger, alike by surface and decision, that this line"
    " of the page stands for; null where the line is one event.",
}
ATTEMPTS_FIELDS: Fields = {
    "count": "How many they are; the line shows the first of them in the list's order.",
    "first_at": "When the first of them occurred.",
    "last_at": "When the last of them occurred.",
    "each": "The path of the list that shows each of them.",
}
AUDIT_QUERY_FIELDS: Fields = {
    "sort": "The order of the list; `-` means descending.",
    "actor": "Only events of the user with this e-mail address.",
    "surface": "Only events of this surface, or of all surfaces under a prefix with `.*`.",
    "tenant": "Only events in the scope of the tenant with this slug.",
    "reason": "Only events with this reason code.",
    "ticket": "Only events whose reason names this ticket.",
    "effect": "Only events with this decision.",
    "outcome": "Only events with this outcome.",
    "kind": "Only accesses, or only changes.",
    "request_id": "Only events of the request with this id.",
    "begins": "Only events from this moment on (ISO 8601, with an offset).",
    "ends": "Only events before this moment (ISO 8601, with an offset).",
    "grouped": "Whether a stranger's refused attempts that are alike make one line of a page. By"
    " default they do in a tenant's scope, and not in the scope `global`.",
}
