"""Approvals over HTTP: request, approve, use and revoke a grant."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.audit.receipts import committed, excluded_by, receipt
from tests.factories import INCIDENT, Account, MadeTenant, add_account
from tests.grants.calls import (
    PATH,
    access,
    access_as,
    act,
    add_request,
    of,
    perform,
    problem,
    require_approval,
)
from tests.rules.calls import delete, names
from webapp.caching import invalidate
from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db
from webapp.grants.active import holder_tag
from webapp.grants.models import GrantRow


def event_of(app: Flask, response: TestResponse) -> Any:
    (event,) = committed(app, *receipt(response))
    return event


def test_refused_access_is_allowed_after_request_and_approval(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    rule: dict[str, Any],
) -> None:
    refused = access(client, support, tenant)
    assert problem(refused) == (403, "approval_required")
    where = refused.get_json()
    assert (where["ask"], where["rules"]) == (PATH, [rule["id"]])

    grant = add_request(client, support, tenant, reason={"code": "incident", "ticket": "INC-1"})
    assert (grant["state"], grant["holder"], grant["tenant"]) == (
        "requested",
        support.email,
        tenant.slug,
    )
    assert (grant["rules"], grant["approvals"], grant["starts_at"]) == ([rule["id"]], [], None)
    lapses = datetime.fromisoformat(grant["ends_at"])
    assert lapses - datetime.fromisoformat(grant["requested_at"]) == timedelta(hours=24)
    assert problem(access(client, support, tenant)) == (403, "approval_required")

    approved = act(client, admin, "approve", grant)
    grant = approved.get_json()
    assert (approved.status_code, grant["state"]) == (200, "approved")
    assert [(a["by"], a["roles"]) for a in grant["approvals"]] == [(admin.email, ["admin"])]
    starts, ends = (datetime.fromisoformat(grant[name]) for name in ("starts_at", "ends_at"))
    assert ends - starts == timedelta(minutes=30)
    event = event_of(app, approved)
    assert (event["kind"], event["surface"]) == ("change", "admin.grants.approve")
    assert (event["outcome"], event["scope"]["tenant_id"]) == ("served", str(tenant.id))
    assert event["reason"] == {"code": "incident", "note": None, "ticket": "INC-1"}
    assert event["decision"]["grant_ids"] == [grant["id"]]

    shown = access(client, support, tenant)
    assert shown.status_code == 200
    decision = event_of(app, shown)["decision"]
    assert (decision["effect"], decision["grant_ids"]) == ("allowed", [grant["id"]])
    assert rule["id"] in decision["rule_ids"]


def test_grant_covers_only_its_holder_and_reason(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    request_: dict[str, Any],
) -> None:
    perform(client, admin, "approve", request_)
    assert access(client, support, tenant).status_code == 200
    assert access(client, add_account(app, "support"), tenant).status_code == 403
    scope = f"tenant:{tenant.slug}"
    for reason in ("fraud", 'incident;ticket="INC-2"', "incident"):
        other = client.get("/admin/api/rules", headers=support.headers(scope, reason))
        assert problem(other) == (403, "approval_required")


def test_revoked_grant_ends_with_the_next_request_of_any_process(
    app: Flask,
    other_app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    owner: Account,
    support: Account,
    rule: dict[str, Any],
) -> None:
    assert rule
    for who in (admin, owner, support):
        grant = perform(client, admin, "approve", add_request(client, support, tenant))
        assert [access_as(each, support, tenant) for each in (app, other_app)] == [200, 200]
        revoked = perform(client, who, "revoke", grant)
        assert (revoked["state"], revoked["closed_by"]) == ("revoked", who.email)
        assert [access_as(each, support, tenant) for each in (other_app, app)] == [403, 403]
        assert problem(act(client, who, "revoke", grant)) == (409, "conflict")


def _let_end(app: Flask, grant: dict[str, Any], support: Account, ends_at: datetime) -> None:
    with app.app_context(), db.scoped(MaintenanceScope()):
        row = db.session.get_one(GrantRow, UUID(grant["id"]))
        row.ends_at = ends_at
        invalidate(holder_tag(support.id))
        db.session.commit()


@pytest.mark.slow
def test_grant_whose_time_is_over_allows_nothing_before_a_task_expires_it(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    request_: dict[str, Any],
) -> None:
    """The clock alone ends it: no task has run."""
    perform(client, admin, "approve", request_)
    ends_at = datetime.now(UTC) + timedelta(seconds=2)
    _let_end(app, request_, support, ends_at)
    assert access(client, support, tenant).status_code == 200
    time.sleep(max(0.0, (ends_at - datetime.now(UTC)).total_seconds()))
    assert problem(access(client, support, tenant)) == (403, "approval_required")
    read = client.get(of(request_), headers=support.headers()).get_json()
    assert read["state"] == "approved"
    assert problem(act(client, admin, "revoke", request_)) == (409, "conflict")


def test_lapsed_request_cannot_be_approved(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    request_: dict[str, Any],
) -> None:
    _let_end(app, request_, support, datetime.now(UTC) - timedelta(seconds=1))
    assert problem(act(client, admin, "approve", request_)) == (409, "conflict")
    assert access(client, support, tenant).status_code == 403


def test_platform_rule_is_approved_by_the_roles_that_it_names(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account, owner: Account
) -> None:
    support, engineer = add_account(app, "support"), add_account(app, "engineer")
    rule = require_approval(
        client,
        owner.headers("global", INCIDENT),
        f"{support.email} asks",
        subjects={"users": [support.email]},
        approver_roles=["engineer"],
    )
    for target in (tenant, None):
        assert problem(access(client, support, target)) == (403, "approval_required")
        grant = add_request(client, support, target)
        assert grant["tenant"] == (tenant.slug if target else None)
        assert problem(act(client, owner, "approve", grant)) == (403, "forbidden")
        unseen = 404 if target is None else 403
        assert act(client, admin, "approve", grant).status_code == unseen
        assert perform(client, engineer, "approve", grant)["state"] == "approved"
        assert access(client, support, target).status_code == 200
    assert delete_globally(client, owner, rule) == 204


def delete_globally(client: FlaskClient, owner: Account, rule: dict[str, Any]) -> int:
    version = f'"{UUID(rule["id"]).hex}.{rule["version"]}"'
    headers = owner.headers("global", INCIDENT) | {"If-Match": version}
    return client.delete(f"/admin/api/rules/{rule['id']}", headers=headers).status_code


def test_global_access_includes_a_tenant_only_with_its_grant(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    rule: dict[str, Any],
) -> None:
    everywhere = support.headers("global", INCIDENT)

    def shown() -> list[str]:
        return names(client, everywhere, tenant=tenant.slug)

    assert shown() == []
    grant = perform(client, admin, "approve", add_request(client, support, tenant))
    assert shown() == [rule["name"]]
    event = event_of(app, access(client, support, None))
    assert grant["id"] in event["decision"]["grant_ids"]
    assert tenant.id not in excluded_by(app, event)
    perform(client, admin, "revoke", grant)
    assert shown() == []
    event = event_of(app, access(client, support, None))
    assert tenant.id in excluded_by(app, event)


def test_grant_begins_after_as_many_approvals_as_the_rule_requires(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account, support: Account
) -> None:
    require_approval(client, admin.headers(), min_approvals=2)
    grant = add_request(client, support, tenant)
    assert perform(client, admin, "approve", grant)["state"] == "requested"
    assert problem(act(client, admin, "approve", grant)) == (409, "conflict")
    assert access(client, support, tenant).status_code == 403
    second = add_account(app, member_of={tenant.slug: "admin"})
    approved = perform(client, second, "approve", grant)
    assert approved["state"] == "approved"
    assert [a["by"] for a in approved["approvals"]] == [admin.email, second.email]
    assert access(client, support, tenant).status_code == 200


def test_grant_needs_the_approvers_of_every_rule(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    owner: Account,
    support: Account,
    rule: dict[str, Any],
) -> None:
    auditors = require_approval(client, admin.headers(), "auditors too", approver_roles=["auditor"])
    grant = add_request(client, support, tenant)
    assert set(grant["rules"]) == {rule["id"], auditors["id"]}
    assert perform(client, admin, "approve", grant)["state"] == "requested"
    assert problem(act(client, owner, "approve", grant)) == (403, "forbidden")
    assert perform(client, add_account(app, "auditor"), "approve", grant)["state"] == "approved"
    assert access(client, support, tenant).status_code == 200


def test_deleted_rule_requires_no_approval(
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    owner: Account,
    support: Account,
    rule: dict[str, Any],
    request_: dict[str, Any],
) -> None:
    assert problem(act(client, owner, "approve", request_)) == (403, "forbidden")
    assert delete(client, admin, rule).status_code == 204
    assert access(client, support, tenant).status_code == 200
    assert perform(client, owner, "approve", request_)["state"] == "approved"


def test_second_of_two_concurrent_approvals_is_refused_where_one_suffices(
    app: Flask, tenant: MadeTenant, admin: Account, support: Account, client: FlaskClient
) -> None:
    require_approval(client, admin.headers())
    second = add_account(app, member_of={tenant.slug: "admin"})
    for _ in range(5):
        grant = add_request(client, support, tenant)
        answers = _at_once(app, [admin, second], grant)
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        grant = client.get(of(grant), headers=support.headers()).get_json()
        assert (grant["state"], grant["version"], len(grant["approvals"])) == ("approved", 2, 1)
        perform(client, admin, "revoke", grant)


def test_two_concurrent_approvals_both_count_where_two_are_required(
    app: Flask, tenant: MadeTenant, admin: Account, support: Account, client: FlaskClient
) -> None:
    require_approval(client, admin.headers(), min_approvals=2)
    second = add_account(app, member_of={tenant.slug: "admin"})
    for _ in range(5):
        grant = add_request(client, support, tenant)
        answers = _at_once(app, [admin, second], grant)
        assert [answer.status_code for answer in answers] == [200, 200]
        grant = client.get(of(grant), headers=support.headers()).get_json()
        assert (grant["state"], grant["version"], len(grant["approvals"])) == ("approved", 3, 2)
        perform(client, admin, "revoke", grant)


def _at_once(app: Flask, people: list[Account], grant: dict[str, Any]) -> list[TestResponse]:
    together = Barrier(len(people))

    def approve(who: Account) -> TestResponse:
        client = app.test_client()
        together.wait()
        return act(client, who, "approve", grant)

    with ThreadPoolExecutor(len(people)) as threads:
        return list(threads.map(approve, people))
