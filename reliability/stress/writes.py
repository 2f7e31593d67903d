"""Writes: the answer to each is noted, and every later read must show it."""

from typing import Any

import requests

from reliability.stress import reads
from reliability.stress.checks import text_of
from reliability.stress.client import PATH, Call, Client
from reliability.stress.known_rules import KnownRule
from reliability.stress.people import Caller

FEW, MANY = 25, 45
"""Roughly how many rules a tenant shall have."""

EFFECTS = ("allow", "deny", "require_approval")


def draft(client: Client, tenant: str | None) -> dict[str, Any]:
    return {
        "name": client.new_name(tenant),
        "description": text_of(tenant, 1),
        "effect": client.rng.choice(EFFECTS),
        "surfaces": [client.rng.choice(("billing.invoices.read", "billing.*", "data.exports"))],
        "subjects": {"roles": ["support"], "users": [f"{tenant or 'nobody'}@example.org"]},
        "windows": [
            {"days": ["mon", "sun"], "from": "22:00", "to": "06:00", "tz": "Europe/Berlin"}
        ],
        "enabled": client.rng.random() < 0.7,
    }


def changes(client: Client, known: KnownRule) -> dict[str, Any]:
    return {
        "description": text_of(known.tenant, known.version + 1),
        "effect": client.rng.choice(EFFECTS),
        "enabled": client.rng.random() < 0.7,
    }


def create(client: Client, tenant: str | None, *, contested: bool = False) -> None:
    """Create a rule, and see that it is there."""
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
    known = _note_answer(client, client.send(call), tenant)
    if known is not None:
        client.known.give_back(known, contested=contested)
        reads.find_one(client, tenant, known.name, _reader(client, writer))


def write(client: Client) -> None:
    """Create, change or delete a rule, so that the number of rules stays about the same."""
    tenant = _some_tenant(client)
    idle, chance = client.known.idle(tenant), client.rng.random()
    if idle < FEW or (idle < MANY and chance < 0.2):
        create(client, tenant)
    elif chance < 0.4:
        delete(client, tenant)
    else:
        patch(client, tenant)


def patch(client: Client, tenant: str | None) -> None:
    known = client.known.borrow(tenant, client.rng)
    if known is None:
        return
    writer = _writer(client, tenant)
    now = _note_answer(client, client.send(_patch(client, writer, known, (200,))), tenant)
    if now is not None:
        reads.find_one(client, tenant, now.name, _reader(client, writer))
        client.known.give_back(now)


def delete(client: Client, tenant: str | None) -> None:
    known = client.known.borrow(tenant, client.rng)
    if known is None:
        return
    writer = _writer(client, tenant)
    client.known.begin_deletion(known.id)
    call = Call(
        writer,
        "admin.rules.delete",
        "DELETE",
        f"{PATH}/{known.id}",
        headers={"If-Match": known.etag},
        statuses=(204,),
        effect="allowed",
    )
    if client.send(call) is not None:
        gone = KnownRule(known.id, tenant, known.name, known.version + 1, deleted=True)
        client.known.note_write(gone)
        reads.find_one(client, tenant, known.name, _reader(client, writer))


def change_contested(client: Client) -> None:
    """Change a contested rule: of the clients that saw the same version one may, the others not."""
    tenant = _some_tenant(client)
    known = client.known.contested(tenant, client.rng)
    if known is None:
        return
    writer = _writer(client, tenant)
    response = client.send(_patch(client, writer, known, (200, 412)))
    if response is not None and response.status_code == 200:
        _note_answer(client, response, tenant)
        return
    # Somebody was faster, one perhaps who has hung up and told nobody.
    read = Call(writer, "admin.rules.read", path=f"{PATH}/{known.id}", effect=writer.effect)
    response = client.send(read)
    rule = client.rule(response) if response is not None else None
    if rule is not None:
        client.known.note_read(KnownRule(rule.id, tenant, rule.name, rule.version))


def _patch(client: Client, writer: Caller, known: KnownRule, statuses: tuple[int, ...]) -> Call:
    return Call(
        writer,
        "admin.rules.update",
        "PATCH",
        f"{PATH}/{known.id}",
        headers={"If-Match": known.etag},
        body=changes(client, known),
        statuses=statuses,
        effect="allowed",
    )


def _note_answer(
    client: Client, response: requests.Response | None, tenant: str | None
) -> KnownRule | None:
    rule = client.rule(response) if response is not None else None
    if rule is None:
        return None
    if rule.tenant != tenant:
        client.fault("wrong tenants", f"{rule.name!r} was written for {rule.tenant}")
    known = KnownRule(rule.id, tenant, rule.name, rule.version)
    if not client.known.note_write(known):
        client.fault("wrong answers", f"two writers were told version {rule.version}")
    return known


def _some_tenant(client: Client) -> str | None:
    return client.rng.choice((*client.people.slugs, *client.people.slugs, None))


def _writer(client: Client, tenant: str | None) -> Caller:
    """The tenant's admin, or sometimes the platform's owner, who alone writes the platform's
    rules."""
    if tenant is None or client.rng.random() < 0.2:
        return client.people.in_all_tenants(client.rng, "owner")
    return client.people.admin_of(tenant)


def _reader(client: Client, writer: Caller) -> Caller:
    """The writer again, or somebody who accesses all tenants."""
    if client.rng.random() < 0.7:
        return writer
    return client.people.in_all_tenants(client.rng)
