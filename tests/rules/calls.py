"""Calls of the rules API for tests."""

from typing import Any
from uuid import UUID

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.factories import Account

PATH = "/admin/api/rules"


def draft(name: str = "nights", **changes: Any) -> dict[str, Any]:
    """A rule as a client writes it."""
    return {"name": name, "effect": "deny", "surfaces": ["billing.invoices.read"], **changes}


def add_rule(
    client: FlaskClient, headers: dict[str, str], name: str = "nights", **changes: Any
) -> dict[str, Any]:
    """Create a rule, and return the answer."""
    response = client.post(PATH, headers=headers, json=draft(name, **changes))
    assert response.status_code == 201, response.text
    rule: dict[str, Any] = response.get_json()
    return rule


def of(rule: dict[str, Any]) -> str:
    """The path of a rule."""
    return f"{PATH}/{rule['id']}"


def etag(rule: dict[str, Any]) -> str:
    return f'"{UUID(rule["id"]).hex}.{rule["version"]}"'


def patch(
    client: FlaskClient, account: Account, rule: dict[str, Any], **changes: Any
) -> TestResponse:
    """Change this version of a rule."""
    headers = account.headers() | {"If-Match": etag(rule)}
    return client.patch(of(rule), headers=headers, json=changes)


def delete(client: FlaskClient, account: Account, rule: dict[str, Any]) -> TestResponse:
    return client.delete(of(rule), headers=account.headers() | {"If-Match": etag(rule)})


def names(client: FlaskClient, headers: dict[str, str], **query: Any) -> list[str]:
    """The names of the rules on a page, in order."""
    response = client.get(PATH, headers=headers, query_string=query)
    assert response.status_code == 200, response.text
    return [rule["name"] for rule in response.get_json()["items"]]


def problem(response: TestResponse) -> tuple[int, str, list[str]]:
    """The status of an error, its code and its fields."""
    body = response.get_json(force=True)
    return response.status_code, body["code"], sorted(body.get("errors", {}))
