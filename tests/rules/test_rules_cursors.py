"""Cursors of the lists of rules: opaque, valid for one list only, and never a 500."""

import base64
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.rules.calls import PATH, add_rule, of, patch, problem

REFUSED = (422, "invalid", ["cursor"])


def _cursor(client: FlaskClient, headers: dict[str, str], path: str = PATH, **query: Any) -> str:
    page = client.get(path, headers=headers, query_string={"limit": 1, **query}).get_json()
    cursor = page["next_cursor"]
    assert isinstance(cursor, str)
    return cursor


@pytest.fixture
def headers(client: FlaskClient, admin: Account) -> dict[str, str]:
    """Headers of somebody whose list has two rules."""
    for name in ("a", "b"):
        add_rule(client, admin.headers(), name)
    return admin.headers()


@pytest.mark.parametrize(
    "query",
    [
        {"sort": "-name"},
        {"sort": "created_at"},
        {"effect": "deny"},
        {"enabled": "true"},
        {"q": "a"},
        {"surface": "admin.rules.list"},
        {"tenant": "acme"},
    ],
)
def test_cursor_with_other_filters_or_order_is_refused(
    client: FlaskClient, headers: dict[str, str], query: dict[str, str]
) -> None:
    cursor = _cursor(client, headers)
    assert client.get(PATH, headers=headers, query_string={"cursor": cursor}).status_code == 200
    refused = client.get(PATH, headers=headers, query_string={"cursor": cursor, **query})
    assert problem(refused) == REFUSED


def test_cursor_continues_the_list_with_another_limit(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    query = {"cursor": _cursor(client, headers), "limit": 7}
    page = client.get(PATH, headers=headers, query_string=query).get_json()
    assert [rule["name"] for rule in page["items"]] == ["b"]


def test_cursor_of_another_scope_is_refused(
    client: FlaskClient,
    tenant: MadeTenant,
    headers: dict[str, str],
    outsider: Account,
    owner: Account,
) -> None:
    query = {"cursor": _cursor(client, headers)}
    everywhere = owner.headers("global", INCIDENT)
    assert problem(client.get(PATH, headers=outsider.headers(), query_string=query)) == REFUSED
    assert problem(client.get(PATH, headers=everywhere, query_string=query)) == REFUSED
    elevated = owner.headers(f"tenant:{tenant.slug}", INCIDENT)
    assert client.get(PATH, headers=elevated, query_string=query).status_code == 200


def test_cursor_of_a_history_is_refused_for_the_list_and_for_other_histories(
    client: FlaskClient, admin: Account, headers: dict[str, str]
) -> None:
    rule = add_rule(client, headers, "c")
    other = add_rule(client, headers, "d")
    assert patch(client, admin, rule, name="e").status_code == 200
    history = f"{of(rule)}/history"
    cursor = _cursor(client, headers, history)
    query = {"cursor": cursor}
    assert client.get(history, headers=headers, query_string=query).status_code == 200
    for path in (PATH, f"{of(other)}/history"):
        assert problem(client.get(path, headers=headers, query_string=query)) == REFUSED
    query = {"cursor": _cursor(client, headers)}
    assert problem(client.get(history, headers=headers, query_string=query)) == REFUSED


def test_cursor_with_any_changed_byte_is_refused(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    cursor = _cursor(client, headers)
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1
        query = {"cursor": base64.urlsafe_b64encode(changed).decode().rstrip("=")}
        assert problem(client.get(PATH, headers=headers, query_string=query)) == REFUSED


@pytest.fixture(scope="module")
def reader(app: Flask) -> Account:
    return add_account(app, member_of={add_tenant(app).slug: "member"})


@settings(deadline=None)
@given(cursor=st.text(min_size=1, max_size=60) | st.text("AZaz09-_", min_size=1, max_size=60))
@example(cursor="=")
@example(cursor="\x00")
@example(cursor="😀")
def test_made_up_cursor_is_refused(app: Flask, reader: Account, cursor: str) -> None:
    query = {"cursor": cursor}
    response = app.test_client().get(PATH, headers=reader.headers(), query_string=query)
    assert problem(response) == REFUSED
