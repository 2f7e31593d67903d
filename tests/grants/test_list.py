"""GET /admin/api/grants: who sees which grants, pages, filters and conditional answers."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.factories import Account, MadeTenant, add_account
from tests.grants.calls import PATH, REASON, SURFACE, add_request, of, perform, problem
from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db
from webapp.grants.models import GrantRow

Grants = list[dict[str, Any]]


def page(client: FlaskClient, who: Account, **query: Any) -> dict[str, Any]:
    response = client.get(PATH, headers=who.headers(), query_string=query)
    assert response.status_code == 200, response.text
    return dict(response.get_json())


@pytest.fixture
def three(
    client: FlaskClient, tenant: MadeTenant, support: Account, rule: dict[str, Any]
) -> Grants:
    """Three requests by `support`, the newest first."""
    assert rule
    return [add_request(client, support, tenant) for _ in range(3)][::-1]


def test_grant_shows_what_was_requested(
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    rule: dict[str, Any],
) -> None:
    reason = REASON | {"note": "login fails for all"}
    grant = add_request(client, support, tenant, surfaces=["b.c", SURFACE, SURFACE], reason=reason)
    assert grant == {
        "id": grant["id"],
        "kind": "approval",
        "holder": support.email,
        "tenant": tenant.slug,
        "surfaces": ["b.c", SURFACE],
        "reason": reason,
        "minutes": 30,
        "rules": [rule["id"]],
        "state": "requested",
        "approvals": [],
        "requested_at": grant["requested_at"],
        "ends_at": grant["ends_at"],
        "version": 1,
        **dict.fromkeys(("starts_at", "closed_at", "closed_by")),
        **dict.fromkeys(("reviewed_at", "reviewed_by", "review")),
    }
    for who in (support, admin):
        read = client.get(of(grant), headers=who.headers())
        assert (read.status_code, read.get_json()) == (200, grant)


def test_grants_are_listed_for_holder_admins_and_staff_only(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    outsider: Account,
    owner: Account,
    support: Account,
    three: Grants,
) -> None:
    """The holder, the tenant's admins and all staff see them; members and services do not."""
    for who in (support, admin, owner, add_account(app, "auditor")):
        assert page(client, who, tenant=tenant.slug)["items"] == three
    assert page(client, admin)["items"] == three
    member = add_account(app, member_of={tenant.slug: "member"})
    for who in (member, outsider):
        assert page(client, who)["items"] == []
        assert problem(client.get(of(three[0]), headers=who.headers())) == (404, "not_found")
    for who in (add_account(app), add_account(app, "service")):
        assert problem(client.get(PATH, headers=who.headers())) == (403, "forbidden")


def test_former_staff_sees_their_own_grants(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account, three: Grants
) -> None:
    former = add_account(app, member_of={tenant.slug: "member"})
    with app.app_context(), db.scoped(MaintenanceScope()):
        db.session.get_one(GrantRow, UUID(three[1]["id"])).principal_id = former.id
        db.session.commit()
    assert [grant["id"] for grant in page(client, former)["items"]] == [three[1]["id"]]
    assert page(client, admin)["total"] == 3


def test_pages_of_grants_have_no_gap_and_no_duplicate(
    client: FlaskClient, admin: Account, three: Grants
) -> None:
    for sort, expected in (("-requested_at", three), ("requested_at", three[::-1])):
        shown = page(client, admin, limit=1, sort=sort)
        found = shown["items"]
        while shown["next_cursor"]:
            shown = page(client, admin, limit=1, sort=sort, cursor=shown["next_cursor"])
            assert (len(shown["items"]), shown["total"]) == (1, 3)
            found += shown["items"]
        assert found == expected


def test_cursor_of_another_list_of_grants_is_refused(
    client: FlaskClient, admin: Account, support: Account, three: Grants
) -> None:
    assert three
    cursor = page(client, admin, limit=1)["next_cursor"]
    for who, query in ((support, {}), (admin, {"state": "requested"}), (admin, {"limit": 2})):
        answer = client.get(
            PATH, headers=who.headers(), query_string={"cursor": cursor, "limit": 1} | query
        )
        assert answer.status_code == (200 if "limit" in query else 422)


def test_filters_of_the_list_of_grants_find_matching_grants(
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    owner: Account,
    support: Account,
    three: Grants,
) -> None:
    denied = perform(client, admin, "deny", three[0])
    assert page(client, admin, state="denied")["items"] == [denied]
    assert page(client, admin, state="requested")["items"] == three[1:]
    assert page(client, admin, holder=support.email, kind="approval")["total"] == 3
    for nothing in ({"holder": admin.email}, {"kind": "break_glass"}, {"tenant": "nobodys"}):
        assert page(client, admin, **nothing)["items"] == []
    assert page(client, owner, tenant=tenant.slug)["total"] == 3
    for wrong in ({"state": "x"}, {"kind": "x"}, {"sort": "minutes"}, {"limit": 0}, {"q": "x"}):
        answer = client.get(PATH, headers=admin.headers(), query_string=wrong)
        assert problem(answer) == (422, "invalid")
        assert list(answer.get_json()["errors"]) == list(wrong)


def test_unchanged_grants_answer_304(client: FlaskClient, admin: Account, three: Grants) -> None:
    for path in (PATH, of(three[0])):
        first = client.get(path, headers=admin.headers())
        known = admin.headers() | {"If-None-Match": first.headers["ETag"]}
        assert client.get(path, headers=known).status_code == 304
    perform(client, admin, "deny", three[0])
    for path in (PATH, of(three[0])):
        assert client.get(path, headers=known).status_code == 200


def test_scope_and_reason_headers_are_ignored_for_grants(
    client: FlaskClient, admin: Account, three: Grants
) -> None:
    """Even invalid headers are not read."""
    headers = admin.headers("global", "because")
    assert client.get(PATH, headers=headers).get_json()["items"] == three
    assert datetime.fromisoformat(three[0]["requested_at"]) > datetime.now(UTC) - timedelta(hours=1)
