"""Calls of the administration over HTTP, for tests."""

from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.factories import INCIDENT, Account, MadeTenant

TENANTS, MEMBERS, TOKENS = "/admin/api/tenants", "/admin/api/members", "/admin/api/tokens"


def elevated(account: Account, tenant: MadeTenant | None = None) -> dict[str, str]:
    """The headers of an elevation to a tenant, or to all."""
    return account.headers(f"tenant:{tenant.slug}" if tenant else "global", INCIDENT)


def add_member(
    client: FlaskClient, headers: dict[str, str], email: str, role: str = "member"
) -> TestResponse:
    return client.post(MEMBERS, headers=headers, json={"email": email, "role": role})


def mint(client: FlaskClient, headers: dict[str, str], user: str, **more: Any) -> TestResponse:
    return client.post(TOKENS, headers=headers, json={"user": user, "name": "made", **more})


def change(
    client: FlaskClient, headers: dict[str, str], path: str, method: str, **changes: Any
) -> TestResponse:
    """Change what is at a path, as it is now."""
    etag = client.get(path, headers=headers).headers.get("ETag", "*")
    sent = headers | {"If-Match": etag}
    return client.open(path, method=method, headers=sent, json=changes or None)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def problem(response: TestResponse) -> tuple[int, str, str]:
    """The status of an error, its code and what it says."""
    body = response.get_json(force=True)
    return response.status_code, body["code"], body.get("detail", "")
