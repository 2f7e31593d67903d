"""Who may decide a request and who sees it. Every attempt is recorded."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.audit.receipts import committed, receipt
from tests.factories import Account, MadeTenant, add_account, add_tenant
from tests.grants.calls import (
    PATH,
    access,
    act,
    add_request,
    of,
    perform,
    problem,
    require_approval,
)
from tests.rules.calls import PATH as RULES

ACTIONS = ("approve", "deny", "revoke")


def test_requester_cannot_decide_their_own_request(
    app: Flask, worker: None, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    """A role that decides other people's requests does not help."""
    rule = require_approval(client, admin.headers(), approver_roles=["owner"])
    owner = add_account(app, "owner")
    grant = add_request(client, owner, tenant)
    for action in ("approve", "deny"):
        refused = act(client, owner, action, grant)
        assert problem(refused) == (403, "forbidden")
        (event,) = committed(app, *receipt(refused))
        assert (event["kind"], event["surface"]) == ("change", f"admin.grants.{action}")
        assert (event["outcome"], event["decision"]["effect"]) == ("denied", "denied")
        assert event["scope"]["tenant_id"] == str(tenant.id)
        assert event["reason"]["code"] == "incident"
    assert access(client, owner, tenant).get_json()["rules"] == [rule["id"]]
    assert perform(client, add_account(app, "owner"), "approve", grant)["state"] == "approved"


@pytest.mark.parametrize("action", ACTIONS)
def test_admin_of_another_tenant_finds_no_request_and_the_attempt_is_recorded(
    app: Flask,
    worker: None,
    client: FlaskClient,
    outsider: Account,
    request_: dict[str, Any],
    action: str,
) -> None:
    """The attempt is in the list of the tenant that it came from, as one on a foreign rule is."""
    listed = client.get(PATH, headers=outsider.headers()).get_json()
    assert listed == {"items": [], "next_cursor": None, "total": 0}
    assert problem(client.get(of(request_), headers=outsider.headers())) == (404, "not_found")
    refused = act(client, outsider, action, request_)
    assert problem(refused) == (404, "not_found")
    (event,) = committed(app, *receipt(refused))
    assert (event["kind"], event["surface"]) == ("change", f"admin.grants.{action}")
    assert (event["outcome"], event["http_status"]) == ("failed", 404)
    assert event["request"]["path"] == of(request_, action)
    on_rule = client.delete(f"{RULES}/{request_['rules'][0]}", headers=outsider.headers())
    (like,) = committed(app, *receipt(on_rule))
    for part in ("scope", "reason", "outcome", "kind"):
        assert event[part] == like[part], part


@pytest.mark.parametrize("action", ACTIONS)
def test_role_that_no_rule_names_cannot_decide(
    app: Flask, client: FlaskClient, request_: dict[str, Any], action: str
) -> None:
    refused = act(client, add_account(app, "engineer"), action, request_)
    assert problem(refused) == (403, "forbidden")
    assert len(receipt(refused)) == 1


def test_role_in_another_tenant_cannot_decide(
    app: Flask, client: FlaskClient, request_: dict[str, Any]
) -> None:
    other = add_account(app, member_of={add_tenant(app).slug: "admin"})
    assert problem(client.get(of(request_), headers=other.headers())) == (404, "not_found")
    assert problem(act(client, other, "approve", request_)) == (404, "not_found")


def test_denied_request_cannot_be_changed(
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    request_: dict[str, Any],
) -> None:
    denied = perform(client, admin, "deny", request_)
    assert (denied["state"], denied["closed_by"]) == ("denied", admin.email)
    for action in ACTIONS:
        assert problem(act(client, admin, action, request_)) == (409, "conflict")
    assert access(client, support, tenant).status_code == 403


def test_approved_request_cannot_be_denied(
    client: FlaskClient, admin: Account, request_: dict[str, Any]
) -> None:
    perform(client, admin, "approve", request_)
    assert problem(act(client, admin, "deny", request_)) == (409, "conflict")


def test_refused_change_of_a_grant_is_recorded_as_failed(
    app: Flask, worker: None, client: FlaskClient, admin: Account, request_: dict[str, Any]
) -> None:
    perform(client, admin, "deny", request_)
    (event,) = committed(app, *receipt(act(client, admin, "approve", request_)))
    assert (event["outcome"], event["http_status"]) == ("failed", 409)
