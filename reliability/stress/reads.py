"""Accesses: lists from the cache and past it, pages, single rules, 304s, the audits themselves."""

from collections.abc import Mapping

import orjson

from reliability.stress.client import PATH, Call, Client
from reliability.stress.known import Floor
from reliability.stress.people import Standpoint

ALL = {"limit": "200"}
HOT: tuple[Mapping[str, str], ...] = (
    {},
    ALL,
    {"limit": "10", "sort": "-updated_at"},
    {"enabled": "true"},
    {"effect": "deny", "limit": "20"},
)
"""ElevationRequest so often that they mostly come from the cache."""

SORTS = ("name", "-name", "created_at", "-created_at", "updated_at", "-updated_at")
STEPS = 4
"""Pages after which a walk is given up."""


def list_at_home(client: Client) -> None:
    access(client, client.people.at_home(client.dice))


def list_everywhere(client: Client) -> None:
    access(client, client.people.everywhere(client.dice))


def list_abroad(client: Client) -> None:
    access(client, client.people.abroad(client.dice))


def access(client: Client, standpoint: Standpoint) -> None:
    """One page of a list. What is complete has to have everything in it."""
    query = dict(_query(client))
    tenant = standpoint.tenant
    if standpoint.scope == "global" and client.dice.random() < 0.5:
        tenant = query["tenant"] = client.dice.choice(client.people.slugs)
    floor = client.known.floor()
    page = client.page(Call(standpoint, query=query, effect=standpoint.effect), floor)
    unfiltered = not query.keys() - {"limit", "sort", "tenant"}
    if page is not None and tenant and unfiltered and page.next_cursor is None:
        client.check_complete([page], tenant, floor)


def find_one(client: Client, tenant: str | None, name: str, standpoint: Standpoint) -> None:
    """Access for a rule by its whole name, right after it was written."""
    floor = client.known.floor()
    call = Call(standpoint, query={"q": name}, effect=standpoint.effect)
    page = client.page(call, floor)
    if page is not None:
        wanted = {key: stand for key, stand in floor.items() if stand.name == name}
        client.check_complete([page], tenant, wanted)


def walk(client: Client) -> None:
    """A list page by page: names never change, so that none may come twice or be left out."""
    standpoint = _anywhere(client)
    query = {"limit": str(client.dice.choice((15, 25, 40)))}
    if standpoint.tenant is None:
        query["tenant"] = client.dice.choice(client.people.slugs)
    floor: Floor = client.known.floor()
    pages = []
    for _ in range(STEPS):
        page = client.page(Call(standpoint, query=query, effect=standpoint.effect), floor)
        if page is None:
            return
        pages.append(page)
        if page.next_cursor is None:
            client.check_complete(pages, standpoint.tenant or query["tenant"], floor)
            return
        query = {**query, "cursor": page.next_cursor}


def revalidate(client: Client) -> None:
    """The same list again, by its entity tag: where it is said to be unchanged, it has to be."""
    standpoint = _anywhere(client)
    call = Call(standpoint, query=client.dice.choice(HOT), effect=standpoint.effect)
    before = client.send(call)
    if before is None:
        return
    floor = client.known.floor()
    tag = {"If-None-Match": before.headers["ETag"]}
    again = client.send(
        Call(
            standpoint,
            query=call.query,
            headers=tag,
            statuses=(200, 304),
            effect=standpoint.effect,
        )
    )
    if again is None:
        return
    if again.status_code == 304 and again.content:
        client.fault("wrong answers", "a 304 has a body")
    client.read_page(call, before.content if again.status_code == 304 else again.content, floor)


def read_one(client: Client) -> None:
    standpoint = _anywhere(client)
    tenant = standpoint.tenant or client.dice.choice(client.people.slugs)
    stand = client.known.some(tenant, client.dice)
    if stand is None:
        return
    path = f"{PATH}/{stand.id}"
    floor = client.known.floor()
    response = client.send(
        Call(
            standpoint,
            "admin.rules.read",
            path=path,
            statuses=(200, 404),
            effect=standpoint.effect,
        )
    )
    if response is not None and response.status_code == 200:
        rule = client.rule(response)
        if rule is not None and (floor[stand.id].deleted or rule.version < floor[stand.id].version):
            client.fault("stale", f"{rule.name!r} was read at version {rule.version}")
    elif response is not None and not client.known.is_leaving(stand.id):
        client.fault("stale", f"{stand.name!r} is not there")
    history = client.send(
        Call(
            standpoint,
            "admin.rules.history",
            path=f"{path}/history",
            query={"limit": "5"},
            effect=standpoint.effect,
        )
    )
    if history is not None:
        kept = orjson.loads(history.content)
        if any(entry["rule"]["tenant"] != tenant for entry in kept["items"]):
            client.fault("wrong tenants", f"in the history of {stand.name!r}")
        if kept["total"] < floor[stand.id].version:
            client.fault("stale", f"the history of {stand.name!r} ends at {kept['total']}")


def read_audits(client: Client) -> None:
    """Elevated for an auditor; for a tenant's admin accesses that tenant, and at all."""
    people, dice = client.people, client.dice
    if dice.random() < 0.5:
        standpoint = people.in_charge(dice.choice(people.slugs))
    else:
        standpoint = people.everywhere(dice, "auditor", "owner")
    response = client.send(
        Call(
            standpoint,
            "admin.audits.list",
            path="/admin/api/audits",
            query={"limit": "10"},
            effect=standpoint.effect,
        )
    )
    if response is None or standpoint.tenant is None:
        return
    for event in orjson.loads(response.content)["items"]:
        if event["scope"]["kind"] == "tenant" and event["scope"]["tenant"] != standpoint.tenant:
            client.fault("wrong tenants", f"{standpoint.tenant} was shown event {event['id']}")


def _anywhere(client: Client) -> Standpoint:
    people = client.people
    return client.dice.choice((people.at_home, people.everywhere, people.abroad))(client.dice)


def _query(client: Client) -> Mapping[str, str]:
    dice = client.dice
    if dice.random() < 0.7:
        return dice.choice(HOT)
    query = {"sort": dice.choice(SORTS), "limit": str(dice.choice((1, 5, 20, 50, 75)))}
    if dice.random() < 0.5:
        query |= dice.choice(
            (
                {"effect": dice.choice(("allow", "deny", "require_approval"))},
                {"enabled": dice.choice(("true", "false"))},
                {"q": dice.choice(("night", "FRAUD", "version 2", "%_"))},
                {"surface": dice.choice(("admin.rules.list", "admin.*"))},
            )
        )
    return query
