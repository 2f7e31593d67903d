"""Reads: lists from the cache and past it, pages, single rules, 304s, and the audit events."""

from collections.abc import Mapping

import orjson

from reliability.stress.client import PATH, Call, Client
from reliability.stress.known_rules import Floor
from reliability.stress.people import Caller

ALL = {"limit": "200"}
HOT: tuple[Mapping[str, str], ...] = (
    {},
    ALL,
    {"limit": "10", "sort": "-updated_at"},
    {"enabled": "true"},
    {"effect": "deny", "limit": "20"},
)
"""Queries that are sent so often that the cache mostly answers them."""

SORTS = ("name", "-name", "created_at", "-created_at", "updated_at", "-updated_at")
STEPS = 4
"""The most pages that are read of one list."""


def list_own_tenant(client: Client) -> None:
    access(client, client.people.in_own_tenant(client.rng))


def list_all_tenants(client: Client) -> None:
    access(client, client.people.in_all_tenants(client.rng))


def list_foreign_tenant(client: Client) -> None:
    access(client, client.people.in_foreign_tenant(client.rng))


def access(client: Client, caller: Caller) -> None:
    """Read one page of a list. A complete list must have every rule that is known."""
    query = dict(_query(client))
    tenant = caller.tenant
    if caller.scope == "global" and client.rng.random() < 0.5:
        tenant = query["tenant"] = client.rng.choice(client.people.slugs)
    floor = client.known.floor()
    page = client.page(Call(caller, query=query, effect=caller.effect), floor)
    unfiltered = not query.keys() - {"limit", "sort", "tenant"}
    if page is not None and tenant and unfiltered and page.next_cursor is None:
        client.check_complete([page], tenant, floor)


def find_one(client: Client, tenant: str | None, name: str, caller: Caller) -> None:
    """Search for a rule by its whole name, right after it was written."""
    floor = client.known.floor()
    call = Call(caller, query={"q": name}, effect=caller.effect)
    page = client.page(call, floor)
    if page is not None:
        wanted = {key: known for key, known in floor.items() if known.name == name}
        client.check_complete([page], tenant, wanted)


def read_all_pages(client: Client) -> None:
    """Read a list page by page. Names never change, so no rule may come twice or be left out."""
    caller = _anywhere(client)
    query = {"limit": str(client.rng.choice((15, 25, 40)))}
    if caller.tenant is None:
        query["tenant"] = client.rng.choice(client.people.slugs)
    floor: Floor = client.known.floor()
    pages = []
    for _ in range(STEPS):
        page = client.page(Call(caller, query=query, effect=caller.effect), floor)
        if page is None:
            return
        pages.append(page)
        if page.next_cursor is None:
            client.check_complete(pages, caller.tenant or query["tenant"], floor)
            return
        query = {**query, "cursor": page.next_cursor}


def revalidate(client: Client) -> None:
    """Read a list again by its entity tag: a 304 must mean that it is unchanged."""
    caller = _anywhere(client)
    call = Call(caller, query=client.rng.choice(HOT), effect=caller.effect)
    before = client.send(call)
    if before is None:
        return
    floor = client.known.floor()
    tag = {"If-None-Match": before.headers["ETag"]}
    again = client.send(
        Call(
            caller,
            query=call.query,
            headers=tag,
            statuses=(200, 304),
            effect=caller.effect,
        )
    )
    if again is None:
        return
    if again.status_code == 304 and again.content:
        client.fault("wrong answers", "a 304 has a body")
    client.read_page(call, before.content if again.status_code == 304 else again.content, floor)


def read_one(client: Client) -> None:
    caller = _anywhere(client)
    tenant = caller.tenant or client.rng.choice(client.people.slugs)
    known = client.known.some(tenant, client.rng)
    if known is None:
        return
    path = f"{PATH}/{known.id}"
    floor = client.known.floor()
    response = client.send(
        Call(
            caller,
            "admin.rules.read",
            path=path,
            statuses=(200, 404),
            effect=caller.effect,
        )
    )
    if response is not None and response.status_code == 200:
        rule = client.rule(response)
        if rule is not None and (floor[known.id].deleted or rule.version < floor[known.id].version):
            client.fault("stale", f"{rule.name!r} was read at version {rule.version}")
    elif response is not None and not client.known.is_being_deleted(known.id):
        client.fault("stale", f"{known.name!r} is not there")
    history = client.send(
        Call(
            caller,
            "admin.rules.history",
            path=f"{path}/history",
            query={"limit": "5"},
            effect=caller.effect,
        )
    )
    if history is not None:
        kept = orjson.loads(history.content)
        if any(entry["rule"]["tenant"] != tenant for entry in kept["items"]):
            client.fault("wrong tenants", f"in the history of {known.name!r}")
        if kept["total"] < floor[known.id].version:
            client.fault("stale", f"the history of {known.name!r} ends at {kept['total']}")


def read_audits(client: Client) -> None:
    """Read audit events: an auditor's by elevation, or a tenant's own by its admin."""
    people, rng = client.people, client.rng
    if rng.random() < 0.5:
        caller = people.admin_of(rng.choice(people.slugs))
    else:
        caller = people.in_all_tenants(rng, "auditor", "owner")
    response = client.send(
        Call(
            caller,
            "admin.audits.list",
            path="/admin/api/audits",
            query={"limit": "10"},
            effect=caller.effect,
        )
    )
    if response is None or caller.tenant is None:
        return
    for event in orjson.loads(response.content)["items"]:
        if event["scope"]["kind"] == "tenant" and event["scope"]["tenant"] != caller.tenant:
            client.fault("wrong tenants", f"{caller.tenant} was shown event {event['id']}")


def _anywhere(client: Client) -> Caller:
    people = client.people
    return client.rng.choice(
        (people.in_own_tenant, people.in_all_tenants, people.in_foreign_tenant)
    )(client.rng)


def _query(client: Client) -> Mapping[str, str]:
    rng = client.rng
    if rng.random() < 0.7:
        return rng.choice(HOT)
    query = {"sort": rng.choice(SORTS), "limit": str(rng.choice((1, 5, 20, 50, 75)))}
    if rng.random() < 0.5:
        query |= rng.choice(
            (
                {"effect": rng.choice(("allow", "deny", "require_approval"))},
                {"enabled": rng.choice(("true", "false"))},
                {"q": rng.choice(("night", "FRAUD", "version 2", "%_"))},
                {"surface": rng.choice(("admin.rules.list", "admin.*"))},
            )
        )
    return query
