"""GET /admin/api/grants: who sees which grants, pages, filters and conditional answers."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account, MadeTenant, add_account
from tests.grants.calls import (
    PATH,
    REASON,
    SURFACE,
    add_request,
    of,
    perform,
    problem,
    require_approval,
)
from tests.rules.calls import add_rule
from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db
from webapp.grants.models import GrantRow
from webapp.identity.principal import STAFF_ROLES, PlatformRole

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


def test_grants_are_listed_for_holder_and_admins_only(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    outsider: Account,
    owner: Account,
    support: Account,
    three: Grants,
) -> None:
    """Without a reason neither members nor other staff see them, and services see none at all."""
    for who in (support, admin):
        assert page(client, who)["items"] == page(client, who, tenant=tenant.slug)["items"] == three
    member = add_account(app, member_of={tenant.slug: "member"})
    for who in (owner, add_account(app, "auditor"), add_account(app, "support")):
        assert page(client, who) == {"items": [], "next_cursor": None, "total": 0}
    for who in (member, outsider, add_account(app, "engineer")):
        assert page(client, who)["items"] == []
        assert problem(client.get(of(three[0]), headers=who.headers())) == (404, "not_found")
    for who in (add_account(app), add_account(app, "service")):
        assert problem(client.get(PATH, headers=who.headers())) == (403, "forbidden")


def everybodys(
    client: FlaskClient, who: Account, scope: str, reason: str | None = INCIDENT, **query: Any
) -> TestResponse:
    return client.get(f"{PATH}/all", headers=who.headers(scope, reason), query_string=query)


@pytest.mark.parametrize("role", STAFF_ROLES)
def test_staff_gives_a_reason_for_the_grants_of_others_and_is_recorded(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    three: Grants,
    role: PlatformRole,
) -> None:
    staff = add_account(app, role)
    for scope in ("global", f"tenant:{tenant.slug}"):
        refused = everybodys(client, staff, scope, None)
        assert problem(refused) == (400, "reason_required")
        listed = everybodys(client, staff, scope, tenant=tenant.slug)
        assert listed.get_json()["items"] == three
        (event,) = committed(app, *receipt(listed))
        assert (event["surface"], event["kind"], event["rows"]) == ("admin.grants.all", "access", 3)
        assert event["reason"]["code"] == "incident"


def test_grants_of_a_tenant_that_says_no_are_left_out(
    client: FlaskClient, tenant: MadeTenant, admin: Account, owner: Account, three: Grants
) -> None:
    assert len(everybodys(client, owner, "global", tenant=tenant.slug).get_json()["items"]) == 3
    add_rule(client, admin.headers(), "no", surfaces=["admin.grants.*"])
    assert everybodys(client, owner, "global", tenant=tenant.slug).get_json()["items"] == []
    refused = everybodys(client, owner, f"tenant:{tenant.slug}")
    assert problem(refused) == (403, "elevation_denied")
    assert everybodys(client, admin, f"tenant:{tenant.slug}", None).get_json()["items"] == three


def test_members_and_admins_of_other_tenants_list_no_grants_of_a_tenant(
    app: Flask, client: FlaskClient, tenant: MadeTenant, outsider: Account, three: Grants
) -> None:
    assert three
    member = add_account(app, member_of={tenant.slug: "member"})
    scope = f"tenant:{tenant.slug}"
    assert problem(everybodys(client, member, scope)) == (403, "forbidden")
    assert problem(everybodys(client, outsider, scope)) == (403, "elevation_denied")


def test_staff_reads_a_grant_that_they_may_decide_about(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
) -> None:
    require_approval(client, admin.headers(), approver_roles=["engineer"])
    grant = add_request(client, support, tenant)
    deciding: tuple[PlatformRole, ...] = ("engineer", "owner")
    others: tuple[PlatformRole, ...] = ("support", "auditor")
    for role in deciding:
        read = client.get(of(grant), headers=add_account(app, role).headers())
        assert (read.status_code, read.get_json()) == (200, grant)
    for role in others:
        read = client.get(of(grant), headers=add_account(app, role).headers())
        assert problem(read) == (404, "not_found")


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
    support: Account,
    three: Grants,
) -> None:
    denied = perform(client, admin, "deny", three[0])
    assert page(client, admin, state="denied")["items"] == [denied]
    assert page(client, admin, state="requested")["items"] == three[1:]
    assert page(client, admin, holder=support.email, kind="approval")["total"] == 3
    for nothing in ({"holder": admin.email}, {"kind": "break_glass"}, {"tenant": "nobodys"}):
        assert page(client, admin, **nothing)["items"] == []
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
