"""Examples and field descriptions of tenants, members and tokens in the API's description."""

from typing import Any

from webapp.http.schema import Fields

TENANT: dict[str, Any] = {
    "id": "01937c2d-1a2b-7c3d-8e4f-5a6b7c8d9e0f",
    "slug": "acme",
    "name": "Acme Ltd.",
    "created_at": "2026-11-02T09:14:27.201554+00:00",
    "ended_at": None,
}
TENANTS: dict[str, Any] = {"items": [TENANT], "next_cursor": None, "total": 1}
NEW_TENANT: dict[str, Any] = {"slug": "acme", "name": "Acme Ltd."}
TENANT_CHANGES: dict[str, Any] = {"name": "Acme Holding"}
MEMBER: dict[str, Any] = {
    "id": "01937c2e-0b1c-7d2e-9f3a-4b5c6d7e8f90",
    "email": "ada@acme.example",
    "tenant": "acme",
    "role": "admin",
}
MEMBERS: dict[str, Any] = {"items": [MEMBER], "next_cursor": None, "total": 1}
NEW_MEMBER: dict[str, Any] = {"email": "ada@acme.example", "role": "admin"}
MEMBER_CHANGES: dict[str, Any] = {"role": "member"}
NO_BINDINGS: dict[str, Any] = {
    "surfaces": [],
    "tenants": [],
    "break_glass": False,
    "reports_mfa": False,
}
BINDINGS: dict[str, Any] = {
    "surfaces": ["billing.*"],
    "tenants": None,
    "break_glass": False,
    "reports_mfa": True,
}
TOKEN: dict[str, Any] = {
    "id": "01937c41-5d6e-7f80-8a1b-2c3d4e5f6071",
    "user": "ada@acme.example",
    "tenant": "acme",
    "name": "nightly export",
    "created_at": "2026-11-30T10:02:11.530127+00:00",
    "expires_at": "2027-02-28T10:02:11.530127+00:00",
    "revoked_at": None,
    "last_used_at": None,
    "mfa": False,
    "bindings": NO_BINDINGS,
}
BOUND_TOKEN: dict[str, Any] = TOKEN | {
    "user": "billing@sightline.example",
    "tenant": None,
    "name": "billing",
    "bindings": BINDINGS,
}
TOKENS: dict[str, Any] = {"items": [TOKEN], "next_cursor": None, "total": 1}
NEW_TOKEN: dict[str, Any] = {"user": "ada@acme.example", "name": "nightly export"}
MINTED: dict[str, Any] = TOKEN | {"secret": "slt_…"}

TENANT_FIELDS: Fields = {
    "slug": "What names the tenant in `Sightline-Scope`.",
    "name": "What people call it.",
    "ended_at": "When the tenant ended, for good; null while it is there.",
}
NEW_TENANT_FIELDS: Fields = {"name": "What people call it; the slug, if absent."}
SORT = "The order; `-` means descending."
TENANT_QUERY_FIELDS: Fields = {
    "sort": SORT,
    "ended": "Only tenants that have ended, or only those that have not.",
}
MEMBER_FIELDS: Fields = {
    "id": "The user's id.",
    "email": "The user's e-mail address.",
    "tenant": "The tenant's slug.",
    "role": "The role in the tenant.",
}
NEW_MEMBER_FIELDS: Fields = {
    "email": "The person's e-mail address. Who is no user yet becomes one.",
    "role": "The role in the tenant.",
}
MEMBER_QUERY_FIELDS: Fields = {
    "sort": SORT,
    "role": "Only members with this role.",
    "email": "Only the member with this e-mail address.",
}
BINDINGS_FIELDS: Fields = {
    "surfaces": "Patterns of the surfaces that the service may ask about.",
    "tenants": "The slugs of the tenants that it may ask about; null for all.",
    "break_glass": "Whether it may ask for break-glass.",
    "reports_mfa": "Whether it may say that a person has shown a second factor.",
}
TOKEN_FIELDS: Fields = {
    "user": "The e-mail address of the token's holder.",
    "tenant": "The slug of the tenant that the token was made in, and is good in; null for a token"
    " of the platform.",
    "name": "What the token is for.",
    "expires_at": "When the token ends; null for one that does not.",
    "revoked_at": "When the token was revoked, for good.",
    "last_used_at": "When the token was last used, up to a minute too early.",
    "mfa": "Whether its holder has shown a second factor for it.",
    "bindings": "What a service may ask with the token. A token that is not a service's asks"
    " nothing.",
}
NEW_TOKEN_FIELDS: Fields = {
    "user": "The e-mail address of a member of the tenant or, in the scope `global`, of a service.",
    "name": "What the token is for.",
    "expires_at": "When the token ends, within a year; in 90 days, if absent.",
}
MINTED_FIELDS: Fields = {"secret": "The token itself. It is shown this once, and kept nowhere."}
TOKEN_QUERY_FIELDS: Fields = {
    "sort": SORT,
    "user": "Only tokens of the user with this e-mail address.",
    "revoked": "Only tokens that are revoked, or only those that are not.",
}
