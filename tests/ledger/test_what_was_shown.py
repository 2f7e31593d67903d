"""An event says what was looked for, and how many rows were shown."""

from collections.abc import Mapping
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.audit.events import make_event
from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from webapp.audit.event import EventError, dump_event, load_event

RULES, AUDITS = "/admin/api/rules", "/admin/api/audits"


@pytest.fixture
def tenant(app: Flask) -> MadeTenant:
    return add_tenant(app)


@pytest.fixture
def admin(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "admin"})


@pytest.fixture
def auditor(app: Flask) -> Account:
    return add_account(app, "auditor")


def recorded(app: Flask, answer: TestResponse) -> Mapping[str, Any]:
    (event,) = committed(app, *receipt(answer))
    return event


def test_event_has_the_terms_of_its_query(
    app: Flask, worker: None, client: FlaskClient, tenant: MadeTenant, auditor: Account
) -> None:
    headers = auditor.headers(f"tenant:{tenant.slug}", INCIDENT)
    query = {"outcome": "denied", "actor": "Ada+x@example.org", "limit": "5"}
    event = recorded(app, client.get(AUDITS, headers=headers, query_string=query))
    assert list(event["terms"].items()) == sorted(query.items())
    shown = client.get(f"{AUDITS}/{event['id']}", headers=headers).get_json()
    assert shown["terms"] == query
    assert recorded(app, client.get(RULES, headers=headers))["terms"] is None


@pytest.mark.parametrize("times", [1, 2])
def test_event_of_a_cached_list_has_terms_and_rows(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    auditor: Account,
    times: int,
) -> None:
    rule = {"name": "ours", "effect": "deny", "surfaces": ["shop.*"]}
    client.post(RULES, headers=admin.headers(), json=rule)
    headers = auditor.headers(f"tenant:{tenant.slug}", INCIDENT)
    for _ in range(times):
        answer = client.get(f"{RULES}?q=our", headers=headers)
    event = recorded(app, answer)
    assert (event["terms"], event["rows"]) == ({"q": "our"}, 1)


@pytest.mark.parametrize("path", [RULES, AUDITS])
def test_answer_that_shows_nothing_is_recorded_with_no_rows(
    app: Flask, worker: None, client: FlaskClient, tenant: MadeTenant, admin: Account, path: str
) -> None:
    rule = {"name": "ours", "effect": "deny", "surfaces": ["shop.*"]}
    client.post(RULES, headers=admin.headers(), json=rule)
    reader = add_account(app, "auditor")
    headers = reader.headers(f"tenant:{tenant.slug}", INCIDENT)
    query = {"to": "2020-01-01T00:00:00Z"} if path == AUDITS else {}
    shown = client.get(path, headers=headers, query_string=query)
    again = client.get(
        path, headers={**headers, "If-None-Match": shown.headers["ETag"]}, query_string=query
    )
    assert again.status_code == 304
    assert recorded(app, again)["rows"] == 0
    head = client.head(RULES, headers=headers)
    assert recorded(app, head)["rows"] == 0
    assert recorded(app, client.get(RULES, headers=headers))["rows"] == 1


def test_tenant_does_not_see_what_was_looked_for_in_all_tenants(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    auditor: Account,
) -> None:
    headers = auditor.headers("global", INCIDENT)
    answer = client.get(f"{AUDITS}?tenant={add_tenant(app).slug}&limit=1", headers=headers)
    event = recorded(app, answer)
    assert "tenant" in event["terms"]
    seen = client.get(f"{AUDITS}/{event['id']}", headers=admin.headers())
    assert (seen.status_code, seen.get_json()["terms"]) == (200, None)


def test_long_term_is_cut(
    app: Flask, worker: None, client: FlaskClient, tenant: MadeTenant, auditor: Account
) -> None:
    headers = auditor.headers(f"tenant:{tenant.slug}", INCIDENT)
    answer = client.get(f"{AUDITS}?cursor={'x' * 2000}", headers=headers)
    assert answer.status_code == 422
    assert len(recorded(app, answer)["terms"]["cursor"]) == 321


def test_event_with_terms_is_loaded_from_its_bytes() -> None:
    event = make_event(terms={"actor": '"via":{', "q": "ü"})
    assert load_event(dump_event(event)) == event


def test_event_with_unsorted_terms_is_refused() -> None:
    event = make_event(terms={"q": "x", "actor": "y"})
    with pytest.raises(EventError):
        load_event(dump_event(event))
