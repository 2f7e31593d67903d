"""A stranger's refused attempt is in the tenant's list, without the stranger's own words."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant

AUDITS, RULES = "/admin/api/audits", "/admin/api/rules"
WORDS = {"ticket": "BUY NOW", "note": "at evil.example"}


@pytest.fixture
def tenant(app: Flask) -> MadeTenant:
    return add_tenant(app)


@pytest.fixture
def admin(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "admin"})


def attempt(app: Flask, client: FlaskClient, who: Account, tenant: MadeTenant) -> str:
    """Try to read a tenant's audits with words of one's own, and return the event's id."""
    reason = f'incident;ticket="{WORDS["ticket"]}";note="{WORDS["note"]}"'
    headers = who.headers(f"tenant:{tenant.slug}", reason) | {
        "User-Agent": "BUY/1.0",
        "X-Request-ID": "BUY-1",
    }
    answer = client.get(AUDITS, headers=headers)
    assert answer.status_code == 403
    (event,) = committed(app, *receipt(answer))
    return str(event["id"])


def shown(client: FlaskClient, event_id: str, headers: dict[str, str]) -> dict[str, Any]:
    event: dict[str, Any] = client.get(f"{AUDITS}/{event_id}", headers=headers).get_json()
    return event


@pytest.mark.parametrize("listed", [True, False])
def test_tenant_does_not_see_a_strangers_words(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    *,
    listed: bool,
) -> None:
    stranger = add_account(app, member_of={add_tenant(app).slug: "admin"})
    event_id = attempt(app, client, stranger, tenant)
    if listed:
        answer = client.get(f"{AUDITS}?effect=denied", headers=admin.headers())
        (event,) = answer.get_json()["items"]
    else:
        event = shown(client, event_id, admin.headers())
    assert (event["id"], event["actor"]["email"]) == (event_id, stranger.email)
    assert event["reason"] == {"code": "incident", "ticket": None, "note": None}
    assert "BUY" not in str(event)


def test_auditor_sees_a_strangers_words(
    app: Flask, worker: None, client: FlaskClient, tenant: MadeTenant
) -> None:
    stranger = add_account(app, member_of={add_tenant(app).slug: "admin"})
    event_id = attempt(app, client, stranger, tenant)
    event = shown(client, event_id, add_account(app, "auditor").headers("global", INCIDENT))
    assert event["reason"] == {"code": "incident", **WORDS}
    assert event["request"]["user_agent"] == "BUY/1.0"


def test_tenant_sees_the_words_of_staff_that_were_refused(
    app: Flask, worker: None, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    event_id = attempt(app, client, add_account(app, "support"), tenant)
    assert shown(client, event_id, admin.headers())["reason"] == {"code": "incident", **WORDS}
