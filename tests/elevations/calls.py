"""Calls of the elevations API, as another service makes them."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.factories import Account, MadeTenant

PATH = "/admin/api/elevations"
SURFACE = "desk.tickets.read"


def question(
    email: str, tenant: MadeTenant | None = None, reason: str = "incident", **changes: Any
) -> dict[str, Any]:
    """A question whether a person may access a tenant, or all tenants."""
    return {
        "principal": {"email": email},
        "surface": SURFACE,
        "tenant": tenant.slug if tenant else None,
        "reason": {"code": reason, "ticket": "INC-1"},
        **changes,
    }


def ask(
    client: FlaskClient, service: Account, body: Mapping[str, Any], key: str | None = None
) -> TestResponse:
    headers = {**service.headers(), "Idempotency-Key": f'"{key or uuid4()}"'}
    return client.post(PATH, headers=headers, json=body)


def answered(
    client: FlaskClient, service: Account, body: Mapping[str, Any], key: str | None = None
) -> dict[str, Any]:
    response = ask(client, service, body, key)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.get_json()
    return answer
