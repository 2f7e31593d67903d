"""From an access that wants an approval to one that has it, and back, through HTTP."""

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

from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account, MadeTenant, add_account
from tests.grants.calls import (
    PATH,
    access,
    access_as,
    act,
    asked,
    done,
    of,
    problem,
    want_approval,
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


def test_from_the_refused_access_to_the_approved_one(
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

    grant = asked(client, support, tenant, reason={"code": "incident", "ticket": "INC-1"})
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


def test_it_is_for_what_was_asked_and_for_nobody_else(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    request_: dict[str, Any],
) -> None:
    done(client, admin, "approve", request_)
    assert access(client, support, tenant).status_code == 200
    assert access(client, add_account(app, "support"), tenant).status_code == 403
    scope = f"tenant:{tenant.slug}"
    for reason in ("fraud", 'incident;ticket="INC-2"', "incident"):
        other = client.get("/admin/api/rules", headers=support.headers(scope, reason))
        assert problem(other) == (403, "approval_required")


def test_what_is_revoked_ends_with_the_next_request_of_any_process(
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
        grant = done(client, admin, "approve", asked(client, support, tenant))
        assert [access_as(each, support, tenant) for each in (app, other_app)] == [200, 200]
        revoked = done(client, who, "revoke", grant)
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
def test_a_grant_that_ends_meanwhile_stops_the_next_request(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    request_: dict[str, Any],
) -> None:
    """By the clock alone, before any task has noticed."""
    done(client, admin, "approve", request_)
    ends_at = datetime.now(UTC) + timedelta(seconds=2)
    _let_end(app, request_, support, ends_at)
    assert access(client, support, tenant).status_code == 200
    time.sleep(max(0.0, (ends_at - datetime.now(UTC)).total_seconds()))
    assert problem(access(client, support, tenant)) == (403, "approval_required")
    read = client.get(of(request_), headers=support.headers()).get_json()
    assert read["state"] == "approved"
    assert problem(act(client, admin, "revoke", request_)) == (409, "conflict")


def test_a_request_that_nobody_decided_in_time_cannot_be_approved(
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


def test_a_platform_rule_is_approved_by_the_roles_that_it_names(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account, owner: Account
) -> None:
    support, engineer = add_account(app, "support"), add_account(app, "engineer")
    rule = want_approval(
        client,
        owner.headers("global", INCIDENT),
        f"{support.email} asks",
        subjects={"users": [support.email]},
        approver_roles=["engineer"],
    )
    for target in (tenant, None):
        assert problem(access(client, support, target)) == (403, "approval_required")
        grant = asked(client, support, target)
        assert grant["tenant"] == (tenant.slug if target else None)
        assert problem(act(client, owner, "approve", grant)) == (403, "forbidden")
        unseen = 404 if target is None else 403
        assert act(client, admin, "approve", grant).status_code == unseen
        assert done(client, engineer, "approve", grant)["state"] == "approved"
        assert access(client, support, target).status_code == 200
    assert delete_globally(client, owner, rule) == 204


def delete_globally(client: FlaskClient, owner: Account, rule: dict[str, Any]) -> int:
    version = f'"{UUID(rule["id"]).hex}.{rule["version"]}"'
    headers = owner.headers("global", INCIDENT) | {"If-Match": version}
    return client.delete(f"/admin/api/rules/{rule['id']}", headers=headers).status_code


def test_a_global_access_has_the_tenant_only_with_its_grant(
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
    grant = done(client, admin, "approve", asked(client, support, tenant))
    assert shown() == [rule["name"]]
    event = event_of(app, access(client, support, None))
    assert grant["id"] in event["decision"]["grant_ids"]
    assert str(tenant.id) not in event["decision"]["excluded_tenant_ids"]
    done(client, admin, "revoke", grant)
    assert shown() == []
    event = event_of(app, access(client, support, None))
    assert str(tenant.id) in event["decision"]["excluded_tenant_ids"]


def test_as_many_approve_as_the_rule_wants(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account, support: Account
) -> None:
    want_approval(client, admin.headers(), min_approvals=2)
    grant = asked(client, support, tenant)
    assert done(client, admin, "approve", grant)["state"] == "requested"
    assert problem(act(client, admin, "approve", grant)) == (409, "conflict")
    assert access(client, support, tenant).status_code == 403
    second = add_account(app, member_of={tenant.slug: "admin"})
    approved = done(client, second, "approve", grant)
    assert approved["state"] == "approved"
    assert [a["by"] for a in approved["approvals"]] == [admin.email, second.email]
    assert access(client, support, tenant).status_code == 200


def test_each_rule_that_asks_is_satisfied_by_its_own(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    owner: Account,
    support: Account,
    rule: dict[str, Any],
) -> None:
    auditors = want_approval(client, admin.headers(), "auditors too", approver_roles=["auditor"])
    grant = asked(client, support, tenant)
    assert set(grant["rules"]) == {rule["id"], auditors["id"]}
    assert done(client, admin, "approve", grant)["state"] == "requested"
    assert problem(act(client, owner, "approve", grant)) == (403, "forbidden")
    assert done(client, add_account(app, "auditor"), "approve", grant)["state"] == "approved"
    assert access(client, support, tenant).status_code == 200


def test_a_rule_that_is_gone_asks_nobody(
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
    assert done(client, owner, "approve", request_)["state"] == "approved"


def test_two_approvers_at_once_make_one_grant(
    app: Flask, tenant: MadeTenant, admin: Account, support: Account, client: FlaskClient
) -> None:
    want_approval(client, admin.headers())
    second = add_account(app, member_of={tenant.slug: "admin"})
    for _ in range(5):
        grant = asked(client, support, tenant)
        answers = _at_once(app, [admin, second], grant)
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        grant = client.get(of(grant), headers=support.headers()).get_json()
        assert (grant["state"], grant["version"], len(grant["approvals"])) == ("approved", 2, 1)
        done(client, admin, "revoke", grant)


def test_two_approvers_at_once_are_two(
    app: Flask, tenant: MadeTenant, admin: Account, support: Account, client: FlaskClient
) -> None:
    want_approval(client, admin.headers(), min_approvals=2)
    second = add_account(app, member_of={tenant.slug: "admin"})
    for _ in range(5):
        grant = asked(client, support, tenant)
        answers = _at_once(app, [admin, second], grant)
        assert [answer.status_code for answer in answers] == [200, 200]
        grant = client.get(of(grant), headers=support.headers()).get_json()
        assert (grant["state"], grant["version"], len(grant["approvals"])) == ("approved", 3, 2)
        done(client, admin, "revoke", grant)


def _at_once(app: Flask, people: list[Account], grant: dict[str, Any]) -> list[TestResponse]:
    together = Barrier(len(people))

    def approve(who: Account) -> TestResponse:
        client = app.test_client()
        together.wait()
        return act(client, who, "approve", grant)

    with ThreadPoolExecutor(len(people)) as threads:
        return list(threads.map(approve, people))
