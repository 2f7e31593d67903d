"""GET /admin/api/rules/{id}/history: every version that a rule has had."""

from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from uuid_utils.compat import uuid7

from tests.factories import INCIDENT, Account, MadeTenant, add_account
from tests.isolation.rows import rule, rule_version
from tests.paging import pages
from tests.rules.calls import add_rule, delete, of, patch, problem
from webapp.db.scopes import TenantScope
from webapp.extensions import db


def _history(
    client: FlaskClient, account: Account, rule: dict[str, Any], **query: Any
) -> dict[str, Any]:
    path = f"{of(rule)}/history"
    response = client.get(path, headers=account.headers(), query_string=query)
    assert response.status_code == 200, response.text
    history: dict[str, Any] = response.get_json()
    return history


def test_history_shows_the_rule_after_each_change(
    client: FlaskClient, tenant: MadeTenant, admin: Account, member: Account, owner: Account
) -> None:
    first = add_rule(
        client,
        admin.headers(),
        "first",
        windows=[{"days": ["sun"], "from": "00:00", "to": "01:00", "tz": "Asia/Tokyo"}],
    )
    headers = owner.headers(f"tenant:{tenant.slug}", INCIDENT) | {"If-Match": "*"}
    second = client.patch(of(first), headers=headers, json={"name": "second"}).get_json()
    third = patch(client, admin, second, enabled=False).get_json()

    history = _history(client, member, first)
    assert (history["total"], history["next_cursor"]) == (3, None)
    assert [version["rule"] for version in history["items"]] == [third, second, first]
    assert [(v["version"], v["change"], v["changed_by"]) for v in history["items"]] == [
        (3, "updated", admin.email),
        (2, "updated", owner.email),
        (1, "created", admin.email),
    ]
    changed_at = [version["changed_at"] for version in history["items"]]
    assert changed_at == [rule["updated_at"] for rule in (third, second, first)]


def test_history_of_a_deleted_rule_stays(client: FlaskClient, admin: Account) -> None:
    rule = add_rule(client, admin.headers())
    assert delete(client, admin, rule).status_code == 204
    history = _history(client, admin, rule)
    assert [version["change"] for version in history["items"]] == ["deleted", "created"]
    assert history["items"][0]["rule"]["version"] == 2
    assert history["items"][1]["rule"] == rule


def test_history_has_no_version_of_a_refused_change(client: FlaskClient, admin: Account) -> None:
    rule = add_rule(client, admin.headers())
    add_rule(client, admin.headers(), "taken")
    assert patch(client, admin, rule, name="taken").status_code == 409
    assert patch(client, admin, {**rule, "version": 2}, name="stale").status_code == 412
    assert patch(client, admin, rule, mfa=False).status_code == 200
    assert [version["version"] for version in _history(client, admin, rule)["items"]] == [1]


def test_history_pages_have_no_gap_and_no_duplicate(client: FlaskClient, admin: Account) -> None:
    rule = newest = add_rule(client, admin.headers())
    for number in range(6):
        newest = patch(client, admin, newest, description=f"change {number}").get_json()

    for limit in (1, 2, 3, 7, 200):
        path = f"{of(rule)}/history"
        found = list(pages(client, path, admin.headers(), {"limit": limit}))
        assert {page["total"] for page in found} == {7}
        versions = [version["version"] for page in found for version in page["items"]]
        assert versions == [7, 6, 5, 4, 3, 2, 1]


def test_unchanged_history_answers_304(client: FlaskClient, admin: Account) -> None:
    rule = add_rule(client, admin.headers())
    path = f"{of(rule)}/history"
    known = admin.headers() | {
        "If-None-Match": client.get(path, headers=admin.headers()).headers["ETag"]
    }
    assert client.get(path, headers=known).status_code == 304
    assert patch(client, admin, rule, mfa=True).status_code == 200
    assert client.get(path, headers=known).status_code == 200


def test_access_to_a_foreign_history_is_recorded(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    rule = add_rule(client, admin.headers())
    headers = add_account(app, "support").headers(f"tenant:{tenant.slug}", INCIDENT)
    access = client.get(f"{of(rule)}/history", headers=headers)
    assert (access.status_code, "Sightline-Audit" in access.headers) == (200, True)
    refused = client.get(f"{of(rule)}/history?limit=0", headers=headers)
    assert problem(refused) == (422, "invalid", ["limit"])


def test_history_shows_a_version_as_it_was_stored(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    """Also a version from a time when rules had other fields."""
    rule_id, snapshot = uuid7(), {"name": "of old", "colour": "green"}
    with app.app_context(), db.scoped(TenantScope(tenant.id)):
        db.session.add(rule(tenant.id, id=rule_id))
        db.session.flush()
        version = rule_version(tenant.id, rule_id, 1)
        version.snapshot = snapshot
        db.session.add(version)
        db.session.commit()
    answer = client.get(f"/admin/api/rules/{rule_id}/history", headers=admin.headers())
    assert answer.status_code == 200
    assert answer.get_json()["items"][0]["rule"] == snapshot
