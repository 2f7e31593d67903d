"""Changes: each one's answer is remembered, and whoever asks afterwards has to be shown it."""

from typing import Any

import requests

from reliability.stress import reads
from reliability.stress.checks import text_of
from reliability.stress.client import PATH, Call, Client
from reliability.stress.known import Stand
from reliability.stress.people import Standpoint

FEW, MANY = 25, 45
"""How many rules of a tenant there are to be, roughly."""

EFFECTS = ("allow", "deny", "require_approval")


def draft(client: Client, tenant: str | None) -> dict[str, Any]:
    return {
        "name": client.new_name(tenant),
        "description": text_of(tenant, 1),
        "effect": client.dice.choice(EFFECTS),
        "surfaces": [client.dice.choice(("billing.invoices.read", "billing.*", "data.exports"))],
        "subjects": {"roles": ["support"], "users": [f"{tenant or 'nobody'}@example.org"]},
        "windows": [
            {"days": ["mon", "sun"], "from": "22:00", "to": "06:00", "tz": "Europe/Berlin"}
        ],
        "enabled": client.dice.random() < 0.7,
    }


def changes(client: Client, stand: Stand) -> dict[str, Any]:
    return {
        "description": text_of(stand.tenant, stand.version + 1),
        "effect": client.dice.choice(EFFECTS),
        "enabled": client.dice.random() < 0.7,
    }


def stock(client: Client, tenant: str | None, *, contested: bool = False) -> None:
    """Add a rule, and see that it is there."""
    writer = _writer(client, tenant)
    body = draft(client, tenant)
    call = Call(
        writer,
        "admin.rules.create",
        "POST",
        body=body | ({"tenant": tenant} if writer.scope == "global" else {}),
        statuses=(201,),
        effect="allowed",
    )
    stand = _told(client, client.send(call), tenant)
    if stand is not None:
        client.known.shelve(stand, contested=contested)
        reads.find_one(client, tenant, stand.name, _reader(client, writer))


def write(client: Client) -> None:
    """Add, change or delete, so that the number of rules stays what it is."""
    tenant = _some_tenant(client)
    idle, chance = client.known.idle(tenant), client.dice.random()
    if idle < FEW or (idle < MANY and chance < 0.2):
        stock(client, tenant)
    elif chance < 0.4:
        delete(client, tenant)
    else:
        patch(client, tenant)


def patch(client: Client, tenant: str | None) -> None:
    stand = client.known.borrow(tenant, client.dice)
    if stand is None:
        return
    writer = _writer(client, tenant)
    now = _told(client, client.send(_patch(client, writer, stand, (200,))), tenant)
    if now is not None:
        reads.find_one(client, tenant, now.name, _reader(client, writer))
        client.known.shelve(now)


def delete(client: Client, tenant: str | None) -> None:
    stand = client.known.borrow(tenant, client.dice)
    if stand is None:
        return
    writer = _writer(client, tenant)
    client.known.leaves(stand.id)
    call = Call(
        writer,
        "admin.rules.delete",
        "DELETE",
        f"{PATH}/{stand.id}",
        headers={"If-Match": stand.etag},
        statuses=(204,),
        effect="allowed",
    )
    if client.send(call) is not None:
        gone = Stand(stand.id, tenant, stand.name, stand.version + 1, deleted=True)
        client.known.tell(gone)
        reads.find_one(client, tenant, stand.name, _reader(client, writer))


def contend(client: Client) -> None:
    """Change what others change too: one of those who saw the same version may, the rest not."""
    tenant = _some_tenant(client)
    stand = client.known.contested(tenant, client.dice)
    if stand is None:
        return
    writer = _writer(client, tenant)
    response = client.send(_patch(client, writer, stand, (200, 412)))
    if response is not None and response.status_code == 200:
        _told(client, response, tenant)
        return
    # Somebody was faster, one perhaps who has hung up and told nobody.
    read = Call(writer, "admin.rules.read", path=f"{PATH}/{stand.id}", effect=writer.effect)
    response = client.send(read)
    rule = client.rule(response) if response is not None else None
    if rule is not None:
        client.known.see(Stand(rule.id, tenant, rule.name, rule.version))


def _patch(client: Client, writer: Standpoint, stand: Stand, statuses: tuple[int, ...]) -> Call:
    return Call(
        writer,
        "admin.rules.update",
        "PATCH",
        f"{PATH}/{stand.id}",
        headers={"If-Match": stand.etag},
        body=changes(client, stand),
        statuses=statuses,
        effect="allowed",
    )


def _told(client: Client, response: requests.Response | None, tenant: str | None) -> Stand | None:
    rule = client.rule(response) if response is not None else None
    if rule is None:
        return None
    if rule.tenant != tenant:
        client.fault("wrong tenants", f"{rule.name!r} was written for {rule.tenant}")
    stand = Stand(rule.id, tenant, rule.name, rule.version)
    if not client.known.tell(stand):
        client.fault("wrong answers", f"two writers were told version {rule.version}")
    return stand


def _some_tenant(client: Client) -> str | None:
    return client.dice.choice((*client.people.slugs, *client.people.slugs, None))


def _writer(client: Client, tenant: str | None) -> Standpoint:
    """The tenant's admin, or now and then the platform's owner, who alone writes its own rules."""
    if tenant is None or client.dice.random() < 0.2:
        return client.people.everywhere(client.dice, "owner")
    return client.people.in_charge(tenant)


def _reader(client: Client, writer: Standpoint) -> Standpoint:
    """The writer again, or somebody who accesses everything."""
    if client.dice.random() < 0.7:
        return writer
    return client.people.everywhere(client.dice)
