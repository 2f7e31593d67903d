"""What has to be refused: some of it leaves a record, some is none of the ledger's business."""

from dataclasses import replace
from typing import Any
from uuid import uuid4

from reliability.stress.client import PATH, Call, Client
from reliability.stress.people import NOWHERE, Standpoint
from reliability.stress.writes import draft


def trespass(client: Client) -> None:
    standpoint = client.people.trespassing(client.dice)
    client.send(Call(standpoint, statuses=(403,), effect="denied"))


def refuse(client: Client) -> None:
    client.send(client.dice.choice(KINDS)(client))


def _create(standpoint: Standpoint, body: Any, status: int, **changes: Any) -> Call:
    create = Call(standpoint, "admin.rules.create", "POST", body=body, statuses=(status,))
    return replace(create, **changes)


def _unfit_role(client: Client) -> Call:
    standpoint = client.people.everywhere(client.dice, "support", "engineer", "auditor")
    return _create(standpoint, draft(client, None), 403, effect="denied")


def _member_writes(client: Client) -> Call:
    slug = client.dice.choice(client.people.slugs)
    standpoint = Standpoint(client.people.members[slug], None, None, slug, None)
    return _create(standpoint, draft(client, slug), 403, effect="denied")


def _no_reason(client: Client) -> Call:
    standpoint = client.people.everywhere(client.dice)
    return Call(replace(standpoint, reason=None, effect=None), statuses=(400,))


def _no_scope(client: Client) -> Call:
    standpoint = client.people.at_home(client.dice)
    return Call(replace(standpoint, scope="everything, please"), statuses=(422,))


def _no_token(client: Client) -> Call:
    standpoint = client.people.at_home(client.dice)
    account = replace(standpoint.account, token=f"slt_{uuid4().hex}")
    return Call(replace(standpoint, account=account), statuses=(401,))


def _no_tenant(client: Client) -> Call:
    standpoint = client.people.abroad(client.dice)
    return Call(replace(standpoint, scope=f"tenant:{NOWHERE}"), statuses=(404,), effect="allowed")


def _foreign_object(client: Client) -> Call:
    home, abroad = client.dice.sample(client.people.slugs, 2)
    stand = client.known.some(abroad, client.dice)
    rule_id = stand.id if stand is not None else uuid4()
    return Call(
        client.people.in_charge(home),
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
    standpoint = client.people.everywhere(client.dice)
    query = client.dice.choice(({"limit": "0"}, {"cursor": "forged"}, {"unknown": "1"}))
    return Call(standpoint, query=query, statuses=(422,), effect="allowed")


def _bad_body(client: Client) -> Call:
    slug = client.dice.choice(client.people.slugs)
    return _create(client.people.in_charge(slug), {"name": 1}, 422, effect="allowed")


def _taken_name(client: Client) -> Call:
    slug = client.dice.choice(client.people.slugs)
    body = draft(client, slug)
    # Contested rules are never deleted, so that their names stay taken.
    stand = client.known.contested(slug, client.dice)
    if stand is None:
        return _bad_body(client)
    return _create(
        client.people.in_charge(slug), body | {"name": stand.name}, 409, effect="allowed"
    )


def _stale_version(client: Client) -> Call:
    slug = client.dice.choice(client.people.slugs)
    stand = client.known.contested(slug, client.dice)
    tags, status = client.dice.choice((({}, 428), ({"If-Match": '"long-gone"'}, 412)))
    return Call(
        client.people.in_charge(slug),
        "admin.rules.update",
        "PATCH",
        f"{PATH}/{stand.id if stand is not None else uuid4()}",
        headers=tags,
        body={"enabled": False},
        statuses=(status,) if stand is not None else (404, 428),
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
