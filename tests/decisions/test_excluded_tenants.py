"""An access to all tenants excludes those whose rules refuse it, from the next request on."""

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
from tests.paging import pages
from tests.processes import Web
from tests.rules.calls import PATH, add_rule, delete, draft, names, problem
from webapp.audit.recorder import EXCLUDED_HEADER
from webapp.db.scopes import Exclusion, GlobalScope
from webapp.extensions import db
from webapp.rules.models import RuleRow

AUDITS = "/admin/api/audits"


@dataclass(frozen=True)
class Place:
    """A tenant with one rule, and its admin."""

    tenant: MadeTenant
    admin: Account


@pytest.fixture(scope="module")
def engineer(app: Flask) -> Account:
    return add_account(app, "engineer")


@pytest.fixture
def everywhere(engineer: Account) -> dict[str, str]:
    return engineer.headers("global", INCIDENT)


@pytest.fixture
def own(app: Flask, client: FlaskClient) -> Place:
    return _place(app, client)


@pytest.fixture
def other(app: Flask, client: FlaskClient) -> Place:
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
    """How many of a tenant's rules the list shows."""
    return len(names(client, headers, tenant=place.tenant.slug))


def excluded(client: FlaskClient, headers: dict[str, str]) -> int:
    """How many tenants an access excludes, by its answer."""
    return int(client.get(PATH, headers=headers).headers[EXCLUDED_HEADER])


def test_denial_excludes_the_tenant_from_the_next_access_until_it_is_deleted(
    client: FlaskClient, everywhere: dict[str, str], own: Place, other: Place
) -> None:
    before = excluded(client, everywhere)
    assert [shown(client, everywhere, own) for _ in range(2)] == [1, 1]
    rule = say_no(client, own)
    assert [shown(client, everywhere, own) for _ in range(2)] == [0, 0]
    assert shown(client, everywhere, other) == 1
    assert excluded(client, everywhere) == before + 1
    assert delete(client, own.admin, rule).status_code == 204
    assert [shown(client, everywhere, own) for _ in range(2)] == [1, 1]
    assert excluded(client, everywhere) == before


@pytest.fixture
def different(client: FlaskClient, own: Place, other: Place) -> dict[str, Place]:
    """By reason, the one of two tenants that an access for this reason shows.

    Accesses for both reasons exclude the same number of tenants.
    """
    say_no(client, own, surfaces=["admin.*"], reasons=["incident"])
    say_no(client, other, surfaces=["admin.*"], reasons=["fraud"])
    return {"incident": other, "fraud": own}


ALTERNATING = ("incident", "fraud") * 3


def tenants_shown(answer: TestResponse, *places: Place) -> set[str]:
    """The tenants of these places of which a page shows a rule or an event."""
    assert answer.status_code == 200, answer.text
    slugs = {place.tenant.slug for place in places}
    items = answer.get_json()["items"]
    return slugs & {item.get("tenant") or item.get("scope", {}).get("tenant") for item in items}


def test_accesses_with_different_exclusions_share_no_cached_list(
    client: FlaskClient, engineer: Account, different: dict[str, Place]
) -> None:
    """Each list is read several times, so also from the cache."""
    places = tuple(different.values())
    for reason in ALTERNATING:
        headers = engineer.headers("global", reason)
        query = {"limit": 200, "sort": "-created_at"}
        answer = client.get(PATH, headers=headers, query_string=query)
        assert tenants_shown(answer, *places) == {different[reason].tenant.slug}
        for place in places:
            assert (shown(client, headers, place) > 0) is (place is different[reason])


@pytest.mark.slow
def test_accesses_with_different_exclusions_share_no_cached_list_across_processes(
    web: Web, client: FlaskClient, engineer: Account, different: dict[str, Place]
) -> None:
    """A list that one process caches in Redis is used by another only for the same exclusions."""
    for reason in ALTERNATING:
        headers = engineer.headers("global", reason)
        for place in different.values():
            expected = place is different[reason]
            query = {"tenant": place.tenant.slug}
            answer = requests.get(f"{web.url}{PATH}", query, headers=headers, timeout=10)
            assert bool(answer.json()["items"]) is expected
            assert (shown(client, headers, place) > 0) is expected


def test_entity_tag_of_an_access_with_other_exclusions_is_no_304(
    client: FlaskClient, engineer: Account, different: dict[str, Place]
) -> None:
    query = {"limit": 200, "sort": "-created_at"}
    incident, fraud = (engineer.headers("global", reason) for reason in different)
    tag = client.get(PATH, headers=incident, query_string=query).headers["ETag"]
    again = client.get(PATH, headers=incident | {"If-None-Match": tag}, query_string=query)
    other = client.get(PATH, headers=fraud | {"If-None-Match": tag}, query_string=query)
    assert (again.status_code, other.status_code) == (304, 200)


@pytest.mark.parametrize("path", [PATH, AUDITS])
def test_cursor_of_an_access_with_other_exclusions_is_refused(
    app: Flask, client: FlaskClient, worker: None, different: dict[str, Place], path: str
) -> None:
    auditor = add_account(app, "auditor")
    incident, fraud = (auditor.headers("global", reason) for reason in different)
    accesses = [client.get(path, headers=incident) for _ in range(2)]
    committed(app, *(receipt(access)[0] for access in accesses))
    first = client.get(path, headers=incident, query_string={"limit": 1})
    cursor = {"limit": 1, "cursor": first.get_json()["next_cursor"]}
    assert client.get(path, headers=incident, query_string=cursor).status_code == 200
    refused = client.get(path, headers=fraud, query_string=cursor)
    assert problem(refused) == (422, "invalid", ["cursor"])


def test_running_process_excludes_a_tenant_as_soon_as_it_denies(
    web: Web, client: FlaskClient, everywhere: dict[str, str], own: Place
) -> None:
    asked = f"{web.url}{PATH}?tenant={own.tenant.slug}"

    def access() -> tuple[int, int]:
        answer = requests.get(asked, headers=everywhere, timeout=10)
        return len(answer.json()["items"]), int(answer.headers[EXCLUDED_HEADER])

    for _ in range(3):
        _, before = access()
        rule = say_no(client, own)
        assert [access(), access()] == [(0, before + 1)] * 2
        delete(client, own.admin, rule)
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
def test_tenant_is_excluded_by_any_rule_that_covers_the_access(
    client: FlaskClient, everywhere: dict[str, str], own: Place, narrowing: dict[str, Any]
) -> None:
    say_no(client, own, **narrowing)
    assert shown(client, everywhere, own) == 0


@pytest.mark.parametrize(
    "condition",
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
def test_tenant_is_not_excluded_by_a_rule_that_does_not_cover_the_access(
    client: FlaskClient, everywhere: dict[str, str], own: Place, condition: dict[str, Any]
) -> None:
    say_no(client, own, **condition)
    assert shown(client, everywhere, own) >= 1


def test_rule_of_an_excluded_tenant_is_not_found_by_its_id(
    client: FlaskClient, everywhere: dict[str, str], own: Place
) -> None:
    rule = say_no(client, own, surfaces=["admin.*"])
    for path in (f"{PATH}/{rule['id']}", f"{PATH}/{rule['id']}/history"):
        answer = client.get(path, headers=everywhere)
        assert (answer.status_code, answer.get_json(force=True)["code"]) == (404, "not_found")
        assert int(answer.headers[EXCLUDED_HEADER]) >= 1


def _excluded_by(client: FlaskClient, auditor: Account, event_id: UUID) -> list[str]:
    """The ids of the tenants that an access left out, read page by page."""
    headers = auditor.headers("global", 'legal;ticket="AUDIT"')
    read = list(pages(client, f"{AUDITS}/{event_id}/excluded", headers, {"limit": 2}))
    found = [tenant for page in read for tenant in page["items"]]
    assert read[-1]["total"] == len(found) == len(set(found))
    return found


def test_event_names_the_excluded_tenants_and_the_policy_version(
    app: Flask,
    client: FlaskClient,
    worker: None,
    everywhere: dict[str, str],
    own: Place,
    other: Place,
) -> None:
    first = client.get(PATH, headers=everywhere)
    say_no(client, own)
    second = client.get(PATH, headers=everywhere)
    tagged = everywhere | {"If-None-Match": second.headers["ETag"]}
    third = client.get(PATH, headers=tagged)
    assert third.status_code == 304
    before, after, unchanged = (
        event["decision"]
        for event in committed(app, *(receipt(a)[0] for a in (first, second, third)))
    )
    auditor = add_account(app, "auditor")
    left_out = [_excluded_by(client, auditor, receipt(answer)[0]) for answer in (first, second)]
    assert set(left_out[1]) - set(left_out[0]) == {str(own.tenant.id)}
    assert str(other.tenant.id) not in left_out[1]
    assert after["excluded"]["count"] == len(left_out[1])
    assert (before["excluded"] or {}).get("digest") != after["excluded"]["digest"]
    assert unchanged == after
    assert before["policy_version"] < after["policy_version"]
    assert before["rule_ids"] == after["rule_ids"] != []


def test_tenant_sees_only_events_of_accesses_that_included_it(
    app: Flask,
    client: FlaskClient,
    worker: None,
    everywhere: dict[str, str],
    own: Place,
    other: Place,
) -> None:
    say_no(client, other)
    seeing = receipt(client.get(PATH, headers=everywhere))[0]
    say_no(client, own)
    blind = receipt(client.get(PATH, headers=everywhere))[0]
    committed(app, seeing, blind)
    headers = own.admin.headers()
    event = client.get(f"{AUDITS}/{seeing}", headers=headers).get_json()
    assert event["scope"]["kind"] == "global"
    assert event["decision"]["excluded"] is None
    shown_by = client.get(f"{AUDITS}/{seeing}/excluded", headers=headers)
    assert (shown_by.status_code, shown_by.get_json()["items"]) == (200, [])
    auditor = add_account(app, "auditor").headers(f"tenant:{own.tenant.slug}", INCIDENT)
    inside = client.get(f"{AUDITS}/{seeing}/excluded", headers=auditor)
    assert (inside.status_code, inside.get_json()["items"]) == (200, [])
    assert client.get(f"{AUDITS}/{blind}", headers=headers).status_code == 404
    assert client.get(f"{AUDITS}/{seeing}", headers=other.admin.headers()).status_code == 404
    query = {"limit": 200, "surface": "admin.rules.list"}
    listed = client.get(AUDITS, headers=headers, query_string=query).get_json()["items"]
    assert {str(seeing), str(blind)} & {item["id"] for item in listed} == {str(seeing)}


def test_tenant_sees_no_events_of_denied_global_accesses_or_platform_changes(
    app: Flask, client: FlaskClient, worker: None, own: Place, other: Place
) -> None:
    owner = add_account(app, "owner")
    denied = client.get(PATH, headers=other.admin.headers("global", INCIDENT))
    changed = client.post(
        PATH, headers=owner.headers("global", INCIDENT), json=draft(other.tenant.slug)
    )
    assert (denied.status_code, changed.status_code) == (403, 201)
    ids = [*receipt(denied), *receipt(changed)]
    committed(app, *ids)
    for event_id in ids:
        answer = client.get(f"{AUDITS}/{event_id}", headers=own.admin.headers())
        assert answer.status_code == 404


def test_access_to_the_tenant_alone_is_denied_by_the_rule_that_excludes_it(
    client: FlaskClient, engineer: Account, own: Place
) -> None:
    rule = say_no(client, own)
    answer = client.get(PATH, headers=engineer.headers(f"tenant:{own.tenant.slug}", INCIDENT))
    body = answer.get_json(force=True)
    assert (answer.status_code, body["code"]) == (403, "elevation_denied")
    assert body["rules"] == [rule["id"]]
    assert "“no” denies it" in body["detail"]


def test_database_hides_rows_of_excluded_tenants(app: Flask, own: Place, other: Place) -> None:
    out = Exclusion(frozenset({own.tenant.id}))
    both = {own.tenant.id, other.tenant.id}
    with app.app_context(), db.scoped(GlobalScope(UUID(int=1), out)):
        seen = set(db.session.scalars(select(RuleRow.tenant_id).where(RuleRow.tenant_id.in_(both))))
    assert seen == {other.tenant.id}
