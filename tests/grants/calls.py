"""Calls of the grants API for tests."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.factories import INCIDENT, Account, MadeTenant
from tests.isolation.rows import grant as grant_row
from tests.rules.calls import PATH as RULES
from tests.rules.calls import add_rule
from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db

PATH = "/admin/api/grants"
SURFACE = "admin.rules.list"
"""The surface that tests use: the list of rules."""

REASON = {"code": "incident", "ticket": "INC-1"}
"""The reason of the header `INCIDENT`."""


def request_body(tenants: Sequence[str] | None, **changes: Any) -> dict[str, Any]:
    listed = None if tenants is None else list(tenants)
    body = {"surfaces": [SURFACE], "tenants": listed, "reason": REASON, "minutes": 30}
    return body | changes


def ask(
    client: FlaskClient, who: Account, tenants: Sequence[str] | None, **changes: Any
) -> TestResponse:
    return client.post(PATH, headers=who.headers(), json=request_body(tenants, **changes))


def add_request(
    client: FlaskClient, who: Account, tenant: MadeTenant | None, **changes: Any
) -> dict[str, Any]:
    """Request a grant, and return it."""
    response = ask(client, who, None if tenant is None else [tenant.slug], **changes)
    assert response.status_code == 201, response.text
    (grant,) = response.get_json()["items"]
    return dict(grant)


def add_grant(app: Flask, tenant_id: UUID, principal_id: UUID) -> UUID:
    """Insert a request into the database, without an HTTP request."""
    with app.app_context(), db.scoped(MaintenanceScope()):
        made = grant_row(tenant_id, principal_id)
        grant_id = made.id
        db.session.add(made)
        db.session.commit()
    return grant_id


def of(grant: dict[str, Any], action: str = "") -> str:
    return f"{PATH}/{grant['id']}" + (action and f"/{action}")


def act(client: FlaskClient, who: Account, action: str, grant: dict[str, Any]) -> TestResponse:
    return client.post(of(grant, action), headers=who.headers())


def perform(
    client: FlaskClient, who: Account, action: str, grant: dict[str, Any]
) -> dict[str, Any]:
    """Change a grant, and return it."""
    response = act(client, who, action, grant)
    assert response.status_code == 200, response.text
    return dict(response.get_json())


def access(client: FlaskClient, who: Account, tenant: MadeTenant | None) -> TestResponse:
    """List a tenant's rules, or with `None` those of all tenants."""
    scope = "global" if tenant is None else f"tenant:{tenant.slug}"
    return client.get(RULES, headers=who.headers(scope, INCIDENT))


def access_as(app: Flask, who: Account, tenant: MadeTenant | None) -> int:
    """The status of an access by another application."""
    return access(app.test_client(), who, tenant).status_code


def require_approval(
    client: FlaskClient, headers: dict[str, str], name: str = "ask first", **changes: Any
) -> dict[str, Any]:
    """Add a rule that requires an approval for the tests' surface."""
    rule = {"effect": "require_approval", "surfaces": [SURFACE]} | changes
    return add_rule(client, headers, name, **rule)


def problem(response: TestResponse) -> tuple[int, str]:
    body = response.get_json()
    return response.status_code, body["code"]
