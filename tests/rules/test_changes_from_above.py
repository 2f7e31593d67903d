"""A change of a tenant's rule from the scope of all tenants is in that tenant's audit list."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant

RULES, AUDITS = "/admin/api/rules", "/admin/api/audits"


@pytest.fixture
def tenant(app: Flask) -> MadeTenant:
    return add_tenant(app)


@pytest.fixture
def admin(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "admin"})


@pytest.fixture
def owner(app: Flask) -> Account:
    return add_account(app, "owner")


def create(client: FlaskClient, owner: Account, tenant: MadeTenant | None) -> TestResponse:
    draft = {"name": "theirs", "effect": "deny", "surfaces": ["shop.nothing"]}
    body = draft | {"tenant": tenant.slug if tenant else None}
    return client.post(RULES, headers=owner.headers("global", INCIDENT), json=body)


@pytest.mark.parametrize("change", ["create", "update", "delete", "refused"])
def test_tenant_sees_a_change_of_its_rule(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    owner: Account,
    change: str,
) -> None:
    headers = owner.headers("global", INCIDENT)
    answer = create(client, owner, tenant)
    assert answer.status_code == 201
    of = f"{RULES}/{answer.get_json()['id']}"
    headers["If-Match"] = answer.headers["ETag"]
    match change:
        case "update":
            answer = client.patch(of, headers=headers, json={"mfa": True})
        case "delete":
            answer = client.delete(of, headers=headers)
        case "refused":
            answer = client.delete(of, headers={**headers, "If-Match": '"other"'})
    (event,) = committed(app, *receipt(answer))
    assert event["scope"] == {
        "kind": "global",
        "tenant": tenant.slug,
        "tenant_id": str(tenant.id),
    }
    seen: dict[str, Any] = client.get(f"{AUDITS}/{event['id']}", headers=admin.headers()).get_json()
    assert (seen["surface"], seen["actor"]["email"]) == (event["surface"], owner.email)
    assert seen["outcome"] == ("failed" if change == "refused" else "served")
    other = add_account(app, member_of={add_tenant(app).slug: "admin"})
    assert client.get(f"{AUDITS}/{event['id']}", headers=other.headers()).status_code == 404


def test_change_of_the_platforms_rule_concerns_no_tenant(
    app: Flask, worker: None, client: FlaskClient, admin: Account, owner: Account
) -> None:
    answer = create(client, owner, None)
    (event,) = committed(app, *receipt(answer))
    assert event["scope"] == {"kind": "global", "tenant": None, "tenant_id": None}
    seen = client.get(f"{AUDITS}/{event['id']}", headers=admin.headers())
    assert seen.status_code == 404
