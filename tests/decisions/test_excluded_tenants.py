"""An access to all tenants leaves out those whose own rules say no, from the next request on."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from werkzeug.test import TestResponse

from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.processes import Web
from tests.rules.calls import PATH, add_rule, delete, draft, names, problem
from webapp.audit.recorder import EXCLUDED_HEADER
from webapp.db.scopes import Exclusion, GlobalScope
from webapp.extensions import db
from webapp.rules.models import RuleRow

AUDITS = "/admin/api/audits"


@dataclass(frozen=True)
class Place:
    tenant: MadeTenant
    admin: Account


@pytest.fixture(scope="module")
def engineer(app: Flask) -> Account:
    return add_account(app, "engineer")


@pytest.fixture
def everywhere(engineer: Account) -> dict[str, str]:
    return engineer.headers("global", INCIDENT)


@pytest.fixture
def ours(app: Flask, client: FlaskClient) -> Place:
    return _place(app, client)


@pytest.fixture
def theirs(app: Flask, client: FlaskClient) -> Place:
    return _place(app, client)


def _place(app: Flask, client: FlaskClient) -> Place:
    tenant = add_tenant(app)
    place = Place(tenant, add_account(app, member_of={tenant.slug: "admin"}))
    add_rule(client, place.admin.headers(), "something to see", effect="allow")
    return place


def say_no(client: FlaskClient, place: Place, **changes: Any) -> dict[str, Any]:
    rule = {"name": "no", "effect": "deny", "surfaces": ["admin.rules.*"], **changes}
    return add_rule(client, place.admin.headers(), **rule)


def shown(client: FlaskClient, headers: dict[str, str], place: Place) -> int:
    """How many of a tenant's rules an access shows."""
    return len(names(client, headers, tenant=place.tenant.slug))


def excluded(client: FlaskClient, headers: dict[str, str]) -> int:
    """How many tenants an access says that it left out."""
    return int(client.get(PATH, headers=headers).headers[EXCLUDED_HEADER])


def test_a_denial_leaves_the_tenant_out_of_the_next_access_and_its_end_lets_it_in_again(
    client: FlaskClient, everywhere: dict[str, str], ours: Place, theirs: Place
) -> None:
    before = excluded(client, everywhere)
    assert [shown(client, everywhere, ours) for _ in range(2)] == [1, 1]
    rule = say_no(client, ours)
    assert [shown(client, everywhere, ours) for _ in range(2)] == [0, 0]
    assert shown(client, everywhere, theirs) == 1
    assert excluded(client, everywhere) == before + 1
    assert delete(client, ours.admin, rule).status_code == 204
    assert [shown(client, everywhere, ours) for _ in range(2)] == [1, 1]
    assert excluded(client, everywhere) == before


@pytest.fixture
def different(client: FlaskClient, ours: Place, theirs: Place) -> dict[str, Place]:
    """For each reason the only one of two tenants that an access for it shows: both kinds of
    access leave out equally many."""
    say_no(client, ours, surfaces=["admin.*"], reasons=["incident"])
    say_no(client, theirs, surfaces=["admin.*"], reasons=["fraud"])
    return {"incident": theirs, "fraud": ours}


ALTERNATING = ("incident", "fraud") * 3


def tenants_shown(answer: TestResponse, *places: Place) -> set[str]:
    """Those of the places' tenants that a page has a rule or an event of."""
    assert answer.status_code == 200, answer.text
    slugs = {place.tenant.slug for place in places}
    items = answer.get_json()["items"]
    return slugs & {item.get("tenant") or item.get("scope", {}).get("tenant") for item in items}


def test_accesses_that_leave_out_different_tenants_share_no_cached_list(
    client: FlaskClient, engineer: Account, different: dict[str, Place]
) -> None:
    """Also from the cache, which each of the two lists is in after its first time."""
    places = tuple(different.values())
    for reason in ALTERNATING:
        headers = engineer.headers("global", reason)
        query = {"limit": 200, "sort": "-created_at"}
        answer = client.get(PATH, headers=headers, query_string=query)
        assert tenants_shown(answer, *places) == {different[reason].tenant.slug}
        for place in places:
            assert (shown(client, headers, place) > 0) is (place is different[reason])


def test_accesses_that_leave_out_different_tenants_share_no_cached_list_across_processes(
    web: Web, client: FlaskClient, engineer: Account, different: dict[str, Place]
) -> None:
    """What one process has put into Redis, another takes for its own accesses only."""
    for reason in ALTERNATING:
        headers = engineer.headers("global", reason)
        for place in different.values():
            expected = place is different[reason]
            query = {"tenant": place.tenant.slug}
            answer = requests.get(f"{web.url}{PATH}", query, headers=headers, timeout=10)
            assert bool(answer.json()["items"]) is expected
            assert (shown(client, headers, place) > 0) is expected


def test_an_entity_tag_of_one_access_is_no_304_for_one_that_leaves_out_others(
    client: FlaskClient, engineer: Account, different: dict[str, Place]
) -> None:
    query = {"limit": 200, "sort": "-created_at"}
    incident, fraud = (engineer.headers("global", reason) for reason in different)
    tag = client.get(PATH, headers=incident, query_string=query).headers["ETag"]
    again = client.get(PATH, headers=incident | {"If-None-Match": tag}, query_string=query)
    other = client.get(PATH, headers=fraud | {"If-None-Match": tag}, query_string=query)
    assert (again.status_code, other.status_code) == (304, 200)


@pytest.mark.parametrize("path", [PATH, AUDITS])
def test_a_cursor_of_one_access_is_refused_for_one_that_leaves_out_others(
    app: Flask, client: FlaskClient, different: dict[str, Place], path: str
) -> None:
    auditor = add_account(app, "auditor")
    incident, fraud = (auditor.headers("global", reason) for reason in different)
    first = client.get(path, headers=incident, query_string={"limit": 1})
    cursor = {"limit": 1, "cursor": first.get_json()["next_cursor"]}
    assert client.get(path, headers=incident, query_string=cursor).status_code == 200
    refused = client.get(path, headers=fraud, query_string=cursor)
    assert problem(refused) == (422, "invalid", ["cursor"])


def test_a_process_that_already_runs_leaves_out_whom_a_new_rule_denies(
    web: Web, client: FlaskClient, everywhere: dict[str, str], ours: Place
) -> None:
    asked = f"{web.url}{PATH}?tenant={ours.tenant.slug}"

    def access() -> tuple[int, int]:
        answer = requests.get(asked, headers=everywhere, timeout=10)
        return len(answer.json()["items"]), int(answer.headers[EXCLUDED_HEADER])

    for _ in range(3):
        _, before = access()
        rule = say_no(client, ours)
        assert [access(), access()] == [(0, before + 1)] * 2
        delete(client, ours.admin, rule)
        assert [access(), access()] == [(1, before)] * 2


@pytest.mark.parametrize(
    "narrowing",
    [
        {"effect": "require_approval"},
        {"surfaces": ["*"]},
        {"surfaces": ["admin.rules.list"]},
        {"reasons": ["legal", "incident"]},
        {"subjects": {"roles": ["engineer"]}},
        {"ticket": "INC-*"},
        {"networks": ["127.0.0.0/8"]},
        {"mfa": True},
    ],
    ids=str,
)
def test_whatever_denies_it_leaves_it_out(
    client: FlaskClient, everywhere: dict[str, str], ours: Place, narrowing: dict[str, Any]
) -> None:
    say_no(client, ours, **narrowing)
    assert shown(client, everywhere, ours) == 0


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"effect": "allow"},
        {"enabled": False},
        {"surfaces": ["admin.audits.*"]},
        {"reasons": ["fraud"]},
        {"subjects": {"roles": ["support"]}},
        {"ticket": "LEGAL-*"},
        {"networks": ["10.0.0.0/8"]},
        {"ends_at": "2020-01-01T00:00:00Z"},
        {"starts_at": "2100-01-01T00:00:00Z"},
    ],
    ids=str,
)
def test_what_is_about_something_else_does_not(
    client: FlaskClient, everywhere: dict[str, str], ours: Place, elsewhere: dict[str, Any]
) -> None:
    say_no(client, ours, **elsewhere)
    assert shown(client, everywhere, ours) >= 1


def test_what_it_holds_is_not_found_by_its_id_either(
    client: FlaskClient, everywhere: dict[str, str], ours: Place
) -> None:
    rule = say_no(client, ours, surfaces=["admin.*"])
    for path in (f"{PATH}/{rule['id']}", f"{PATH}/{rule['id']}/history"):
        answer = client.get(path, headers=everywhere)
        assert (answer.status_code, answer.get_json(force=True)["code"]) == (404, "not_found")
        assert int(answer.headers[EXCLUDED_HEADER]) >= 1


def test_the_event_says_who_was_left_out_and_by_which_policy(
    app: Flask,
    client: FlaskClient,
    worker: None,
    everywhere: dict[str, str],
    ours: Place,
    theirs: Place,
) -> None:
    first = client.get(PATH, headers=everywhere)
    say_no(client, ours)
    second = client.get(PATH, headers=everywhere)
    tagged = everywhere | {"If-None-Match": second.headers["ETag"]}
    third = client.get(PATH, headers=tagged)
    assert third.status_code == 304
    before, after, unchanged = (
        event["decision"]
        for event in committed(app, *(receipt(a)[0] for a in (first, second, third)))
    )
    assert set(after["excluded_tenant_ids"]) - set(before["excluded_tenant_ids"]) == {
        str(ours.tenant.id)
    }
    assert str(theirs.tenant.id) not in after["excluded_tenant_ids"]
    assert unchanged == after
    assert before["policy_version"] < after["policy_version"]
    assert before["rule_ids"] == after["rule_ids"] != []


def test_a_tenant_sees_the_accesses_that_saw_it_and_not_who_else_was_left_out(
    app: Flask,
    client: FlaskClient,
    worker: None,
    everywhere: dict[str, str],
    ours: Place,
    theirs: Place,
) -> None:
    say_no(client, theirs)
    seeing = receipt(client.get(PATH, headers=everywhere))[0]
    say_no(client, ours)
    blind = receipt(client.get(PATH, headers=everywhere))[0]
    committed(app, seeing, blind)
    headers = ours.admin.headers()
    event = client.get(f"{AUDITS}/{seeing}", headers=headers).get_json()
    assert event["scope"]["kind"] == "global"
    assert event["decision"]["excluded_tenant_ids"] == []
    assert client.get(f"{AUDITS}/{blind}", headers=headers).status_code == 404
    assert client.get(f"{AUDITS}/{seeing}", headers=theirs.admin.headers()).status_code == 404
    query = {"limit": 200, "surface": "admin.rules.list"}
    listed = client.get(AUDITS, headers=headers, query_string=query).get_json()["items"]
    assert {str(seeing), str(blind)} & {item["id"] for item in listed} == {str(seeing)}


def test_a_tenant_is_not_told_of_accesses_that_were_denied_nor_of_what_the_platform_changes(
    app: Flask, client: FlaskClient, worker: None, ours: Place, theirs: Place
) -> None:
    owner = add_account(app, "owner")
    denied = client.get(PATH, headers=theirs.admin.headers("global", INCIDENT))
    changed = client.post(
        PATH, headers=owner.headers("global", INCIDENT), json=draft(theirs.tenant.slug)
    )
    assert (denied.status_code, changed.status_code) == (403, 201)
    ids = [*receipt(denied), *receipt(changed)]
    committed(app, *ids)
    for event_id in ids:
        answer = client.get(f"{AUDITS}/{event_id}", headers=ours.admin.headers())
        assert answer.status_code == 404


def test_an_access_at_the_tenant_alone_is_denied_by_the_same_rule(
    client: FlaskClient, engineer: Account, ours: Place
) -> None:
    rule = say_no(client, ours)
    answer = client.get(PATH, headers=engineer.headers(f"tenant:{ours.tenant.slug}", INCIDENT))
    body = answer.get_json(force=True)
    assert (answer.status_code, body["code"]) == (403, "elevation_denied")
    assert body["rules"] == [rule["id"]]
    assert "“no” denies it" in body["detail"]


def test_the_database_itself_leaves_it_out(app: Flask, ours: Place, theirs: Place) -> None:
    out = Exclusion(frozenset({ours.tenant.id}))
    both = {ours.tenant.id, theirs.tenant.id}
    with app.app_context(), db.scoped(GlobalScope(UUID(int=1), out)):
        seen = set(db.session.scalars(select(RuleRow.tenant_id).where(RuleRow.tenant_id.in_(both))))
    assert seen == {theirs.tenant.id}
