"""Who may decide about a request, and who sees it; every attempt is on record."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.audit.receipts import committed, receipt
from tests.factories import Account, MadeTenant, add_account, add_tenant
from tests.grants.calls import PATH, access, act, asked, done, of, problem, want_approval

ACTIONS = ("approve", "deny", "revoke")


def test_nobody_decides_the_own_request(
    app: Flask, worker: None, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    """Not even in a role that decides others'."""
    rule = want_approval(client, admin.headers(), approver_roles=["owner"])
    owner = add_account(app, "owner")
    grant = asked(client, owner, tenant)
    for action in ("approve", "deny"):
        refused = act(client, owner, action, grant)
        assert problem(refused) == (403, "forbidden")
        (event,) = committed(app, *receipt(refused))
        assert (event["kind"], event["surface"]) == ("change", f"admin.grants.{action}")
        assert (event["outcome"], event["decision"]["effect"]) == ("denied", "denied")
        assert event["scope"]["tenant_id"] == str(tenant.id)
        assert event["reason"]["code"] == "incident"
    assert access(client, owner, tenant).get_json()["rules"] == [rule["id"]]
    assert done(client, add_account(app, "owner"), "approve", grant)["state"] == "approved"


@pytest.mark.parametrize("action", ACTIONS)
def test_another_tenants_admin_sees_nothing(
    client: FlaskClient, outsider: Account, request_: dict[str, Any], action: str
) -> None:
    listed = client.get(PATH, headers=outsider.headers()).get_json()
    assert listed == {"items": [], "next_cursor": None, "total": 0}
    assert problem(client.get(of(request_), headers=outsider.headers())) == (404, "not_found")
    refused = act(client, outsider, action, request_)
    assert problem(refused) == (404, "not_found")
    assert receipt(refused) == []


@pytest.mark.parametrize("action", ACTIONS)
def test_whose_role_no_rule_names_decides_nothing(
    app: Flask, client: FlaskClient, request_: dict[str, Any], action: str
) -> None:
    refused = act(client, add_account(app, "engineer"), action, request_)
    assert problem(refused) == (403, "forbidden")
    assert len(receipt(refused)) == 1


def test_a_role_in_another_tenant_counts_for_nothing(
    app: Flask, client: FlaskClient, request_: dict[str, Any]
) -> None:
    """An admin elsewhere, who sees the request as one of the platform's staff."""
    both = add_account(app, "support", member_of={add_tenant(app).slug: "admin"})
    assert client.get(of(request_), headers=both.headers()).status_code == 200
    assert problem(act(client, both, "approve", request_)) == (403, "forbidden")


def test_what_is_denied_is_over(
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    request_: dict[str, Any],
) -> None:
    denied = done(client, admin, "deny", request_)
    assert (denied["state"], denied["closed_by"]) == ("denied", admin.email)
    for action in ACTIONS:
        assert problem(act(client, admin, action, request_)) == (409, "conflict")
    assert access(client, support, tenant).status_code == 403


def test_what_is_approved_is_not_denied(
    client: FlaskClient, admin: Account, request_: dict[str, Any]
) -> None:
    done(client, admin, "approve", request_)
    assert problem(act(client, admin, "deny", request_)) == (409, "conflict")


def test_a_change_that_cannot_be_is_on_record_as_failed(
    app: Flask, worker: None, client: FlaskClient, admin: Account, request_: dict[str, Any]
) -> None:
    done(client, admin, "deny", request_)
    (event,) = committed(app, *receipt(act(client, admin, "approve", request_)))
    assert (event["outcome"], event["http_status"]) == ("failed", 409)
