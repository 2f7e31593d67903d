"""Requests that must be refused: some of them leave an event, the others none."""

from dataclasses import replace
from typing import Any
from uuid import uuid4

from reliability.stress.client import PATH, Call, Client
from reliability.stress.people import NO_SUCH_TENANT, Caller
from reliability.stress.writes import draft


def access_without_permission(client: Client) -> None:
    caller = client.people.without_permission(client.rng)
    client.send(Call(caller, statuses=(403,), effect="denied"))


def send_refused(client: Client) -> None:
    client.send(client.rng.choice(KINDS)(client))


def _create(caller: Caller, body: Any, status: int, **changes: Any) -> Call:
    create = Call(caller, "admin.rules.create", "POST", body=body, statuses=(status,))
    return replace(create, **changes)


def _unfit_role(client: Client) -> Call:
    caller = client.people.in_all_tenants(client.rng, "support", "engineer", "auditor")
    return _create(caller, draft(client, None), 403, effect="denied")


def _member_writes(client: Client) -> Call:
    slug = client.rng.choice(client.people.slugs)
    caller = Caller(client.people.members[slug], None, None, slug, None)
    return _create(caller, draft(client, slug), 403, effect="denied")


def _no_reason(client: Client) -> Call:
    caller = client.people.in_all_tenants(client.rng)
    return Call(replace(caller, reason=None, effect=None), statuses=(400,))


def _no_scope(client: Client) -> Call:
    caller = client.people.in_own_tenant(client.rng)
    return Call(replace(caller, scope="everything, please"), statuses=(422,))


def _no_token(client: Client) -> Call:
    caller = client.people.in_own_tenant(client.rng)
    account = replace(caller.account, token=f"slt_{uuid4().hex}")
    return Call(replace(caller, account=account), statuses=(401,))


def _no_tenant(client: Client) -> Call:
    caller = client.people.in_foreign_tenant(client.rng)
    return Call(
        replace(caller, scope=f"tenant:{NO_SUCH_TENANT}"), statuses=(404,), effect="allowed"
    )


def _foreign_object(client: Client) -> Call:
    home, in_foreign_tenant = client.rng.sample(client.people.slugs, 2)
    known = client.known.some(in_foreign_tenant, client.rng)
    rule_id = known.id if known is not None else uuid4()
    return Call(
        client.people.admin_of(home),
        "admin.rules.read",
        path=f"{PATH}/{rule_id}",
        statuses=(404,),
    )


def _foreign_change(client: Client) -> Call:
    return replace(
        _foreign_object(client),
        surface="admin.rules.update",
        method="PATCH",
        headers={"If-Match": '"any"'},
        body={"enabled": False},
        effect="allowed",
    )


def _bad_query(client: Client) -> Call:
    caller = client.people.in_all_tenants(client.rng)
    query = client.rng.choice(({"limit": "0"}, {"cursor": "forged"}, {"unknown": "1"}))
    return Call(caller, query=query, statuses=(422,), effect="allowed")


def _bad_body(client: Client) -> Call:
    slug = client.rng.choice(client.people.slugs)
    return _create(client.people.admin_of(slug), {"name": 1}, 422, effect="allowed")


def _taken_name(client: Client) -> Call:
    slug = client.rng.choice(client.people.slugs)
    body = draft(client, slug)
    # Contested rules are never deleted, so that their names stay taken.
    known = client.known.contested(slug, client.rng)
    if known is None:
        return _bad_body(client)
    return _create(client.people.admin_of(slug), body | {"name": known.name}, 409, effect="allowed")


def _stale_version(client: Client) -> Call:
    slug = client.rng.choice(client.people.slugs)
    known = client.known.contested(slug, client.rng)
    tags, status = client.rng.choice((({}, 428), ({"If-Match": '"long-gone"'}, 412)))
    return Call(
        client.people.admin_of(slug),
        "admin.rules.update",
        "PATCH",
        f"{PATH}/{known.id if known is not None else uuid4()}",
        headers=tags,
        body={"enabled": False},
        statuses=(status,) if known is not None else (404, 428),
        effect="allowed",
    )


KINDS = (
    _unfit_role,
    _member_writes,
    _no_reason,
    _no_scope,
    _no_token,
    _no_tenant,
    _foreign_object,
    _foreign_change,
    _bad_query,
    _bad_body,
    _taken_name,
    _stale_version,
)
