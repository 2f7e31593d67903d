"""Elevations for another service: its answers, and their records in the ledger."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import insert

from tests.audit.ledgers import owner_connection
from tests.audit.receipts import committed, excluded_by, receipt
from tests.conftest import Run
from tests.elevations.calls import PATH, SURFACE, answered, ask, question
from tests.elevations.conftest import MakeRule
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.operators import WHY
from tests.rules.calls import problem
from webapp.audit.recorder import ACCESSES, EXCLUDED_HEADER
from webapp.caching import invalidate
from webapp.db.scopes import DirectoryScope, MaintenanceScope
from webapp.directory import service as directory
from webapp.extensions import db
from webapp.grants.active import holder_tag
from webapp.grants.models import GrantApprovalRow, GrantRow
from webapp.identity.principal import STAFF_ROLES


def via(service: Account) -> dict[str, str]:
    """How an event names the service that asked."""
    return {
        "id": str(service.id),
        "email": service.email,
        "token_id": str(service.token_id),
    }


def test_allowed_elevation_is_recorded_as_the_persons_access(
    app: Flask, worker: None, client: FlaskClient, service: Account, tenant: MadeTenant
) -> None:
    engineer = add_account(app, "engineer")
    body = question(engineer.email, tenant, ip="203.0.113.9")
    body["principal"]["mfa"] = True
    response = ask(client, service, body)
    answer = response.get_json()
    assert (answer["decision"], answer["elevated"]) == ("allowed", True)
    assert "“Staff access”" in answer["explanation"]
    assert (len(answer["rules"]), answer["grants"], answer["ask"]) == (1, [], None)
    assert answer["excluded"] == {"count": 0, "tenants": []}
    assert receipt(response) == [UUID(answer["receipt"])]
    (event,) = committed(app, UUID(answer["receipt"]))
    assert event["actor"]["id"] == str(engineer.id)
    assert (event["actor"]["email"], event["actor"]["mfa"]) == (engineer.email, True)
    assert "engineer" in event["actor"]["roles"]
    assert event["actor"]["token_id"] is None
    assert event["via"] == via(service)
    assert (event["kind"], event["surface"], event["outcome"]) == ("access", SURFACE, "served")
    assert event["reason"] == {"code": "incident", "ticket": "INC-1", "note": None}
    assert event["scope"] == {
        "kind": "tenant",
        "tenant": tenant.slug,
        "tenant_id": str(tenant.id),
    }
    assert event["decision"]["rule_ids"] == answer["rules"]
    assert event["decision"]["policy_version"] == answer["policy_version"] > 0
    assert (event["request"]["ip"], event["request"]["path"]) == ("203.0.113.9", PATH)


def test_second_factor_counts_only_for_the_service_that_reports_it(
    app: Flask, worker: None, client: FlaskClient, service: Account, engineer: Account
) -> None:
    other, body = add_account(app, "service"), question(engineer.email)
    first = answered(client, service, body)
    body["principal"]["mfa"] = True
    second = answered(client, other, body)
    events = committed(app, UUID(first["receipt"]), UUID(second["receipt"]))
    said = [(event["via"], event["actor"]["mfa"]) for event in events]
    assert said == [(via(service), False), (via(other), True)]


def test_metrics_have_no_label_for_surfaces_of_other_services(
    client: FlaskClient, service: Account, engineer: Account, surface: str
) -> None:
    counted = ACCESSES.labels("external", "served")._value.get()
    answered(client, service, question(engineer.email, surface=surface))
    assert ACCESSES.labels("external", "served")._value.get() == counted + 1
    assert surface not in client.get("/metrics").text


def test_denied_elevation_is_answered_and_recorded(
    app: Flask,
    worker: None,
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    admin: Account,
    engineer: Account,
    surface: str,
    make_rule: MakeRule,
) -> None:
    rule_id = make_rule("deny", admin)
    answer = answered(client, service, question(engineer.email, tenant, surface=surface))
    assert (answer["decision"], answer["elevated"]) == ("denied", True)
    assert answer["rules"] == [str(rule_id)]
    assert answer["explanation"].endswith(" denies it.")
    (event,) = committed(app, UUID(answer["receipt"]))
    assert (event["outcome"], event["http_status"]) == ("denied", 200)
    assert event["decision"]["effect"] == "denied"


def test_elevation_is_decided_by_the_persons_current_roles(
    app: Flask, client: FlaskClient, service: Account, tenant: MadeTenant
) -> None:
    person = add_account(app)
    body = question(person.email.upper(), tenant)
    assert answered(client, service, body)["decision"] == "denied"
    with app.app_context(), db.scoped(DirectoryScope()):
        directory.set_platform_role(person.email, "support", held=True)
        db.session.commit()
    assert answered(client, service, body)["decision"] == "allowed"
    with app.app_context(), db.scoped(DirectoryScope()):
        directory.set_platform_role(person.email, "support", held=False)
        db.session.commit()
    assert answered(client, service, body)["decision"] == "denied"


def test_elevation_request_that_names_roles_is_refused(
    client: FlaskClient, service: Account, engineer: Account
) -> None:
    for place in ("roles", "platform_roles", "id"):
        body = question(engineer.email)
        body["principal"][place] = ["owner"]
        assert problem(ask(client, service, body)) == (422, "invalid", [f"principal.{place}"])


def test_stranger_has_no_role_but_is_allowed_by_a_rule_for_the_address(
    app: Flask,
    worker: None,
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    surface: str,
    make_rule: MakeRule,
) -> None:
    email = f"{uuid4().hex}@stranger.example"
    body = question(email, tenant, surface=surface)
    before = answered(client, service, body)
    assert (before["decision"], before["rules"]) == ("denied", [])
    make_rule("allow", subjects={"users": [email]})
    after = answered(client, service, body)
    assert after["decision"] == "allowed"
    for event in committed(app, UUID(before["receipt"]), UUID(after["receipt"])):
        assert event["actor"]["id"] == str(uuid5(NAMESPACE_URL, f"mailto:{email}"))
        assert (event["actor"]["email"], event["actor"]["roles"]) == (email, [])


def test_access_to_the_own_tenant_is_no_elevation_and_recorded(
    app: Flask,
    worker: None,
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    admin: Account,
) -> None:
    """The answer tells the service that the person is a member, so somebody may see that."""
    response = ask(client, service, question(admin.email, tenant))
    answer = response.get_json()
    assert (answer["decision"], answer["elevated"], answer["rules"]) == ("allowed", False, [])
    assert receipt(response) == [UUID(answer["receipt"])]
    (event,) = committed(app, UUID(answer["receipt"]))
    assert (event["kind"], event["surface"], event["outcome"]) == ("access", SURFACE, "served")
    assert event["scope"]["tenant_id"] == str(tenant.id)
    assert (event["actor"]["email"], event["via"]) == (admin.email, via(service))
    assert event["decision"]["policy_version"] is None
    shown = client.get(f"/admin/api/audits/{answer['receipt']}", headers=admin.headers())
    assert shown.get_json()["via"] == via(service)


def test_audit_list_and_commands_name_the_service_beside_the_person(
    app: Flask,
    worker: None,
    run: Run,
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    admin: Account,
    engineer: Account,
) -> None:
    asked = ask(client, service, question(engineer.email, tenant))
    own = client.get(
        "/admin/api/rules", headers=engineer.headers(f"tenant:{tenant.slug}", INCIDENT)
    )
    committed(app, *receipt(asked), *receipt(own))
    listed = client.get(f"/admin/api/audits?actor={engineer.email}", headers=admin.headers())
    assert [event["via"] for event in listed.get_json()["items"]] == [None, via(service)]
    table = run("audit", "search", "--actor", engineer.email, *WHY).stdout
    assert table.count(engineer.email) == 2
    assert table.count(f"{engineer.email} via {service.email}") == 1


def test_elevation_for_an_unknown_tenant_is_denied_and_recorded(
    app: Flask, worker: None, client: FlaskClient, service: Account, engineer: Account
) -> None:
    answer = answered(client, service, question(engineer.email, MadeTenant(uuid4(), "nobodys")))
    assert answer["decision"] == "denied"
    assert answer["explanation"] == "There is no such tenant."
    (event,) = committed(app, UUID(answer["receipt"]))
    assert event["scope"] == {"kind": "tenant", "tenant": "nobodys", "tenant_id": None}


def test_elevation_under_a_rule_that_demands_a_second_factor_needs_one(
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    surface: str,
    make_rule: MakeRule,
) -> None:
    email = f"{uuid4().hex}@stranger.example"
    make_rule("allow", subjects={"users": [email]}, mfa=True)
    body = question(email, tenant, surface=surface)
    assert answered(client, service, body)["decision"] == "denied"
    body["principal"]["mfa"] = True
    assert answered(client, service, body)["decision"] == "allowed"


def test_networks_are_compared_with_the_persons_address_and_not_the_services(
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    surface: str,
    make_rule: MakeRule,
) -> None:
    email = f"{uuid4().hex}@stranger.example"
    make_rule("allow", subjects={"users": [email]}, networks=["203.0.113.0/24"])
    decisions = {
        ip: answered(client, service, question(email, tenant, surface=surface, ip=ip))["decision"]
        for ip in ("203.0.113.9", "::ffff:203.0.113.9", "198.51.100.1", None)
    }
    assert list(decisions.values()) == ["allowed", "allowed", "denied", "denied"]


def test_elevation_to_all_tenants_lists_the_excluded_ones(
    app: Flask,
    worker: None,
    client: FlaskClient,
    service: Account,
    engineer: Account,
    surface: str,
    make_rule: MakeRule,
) -> None:
    others, said_no = add_tenant(app), [add_tenant(app) for _ in range(2)]
    for tenant, effect in zip(said_no, ("deny", "require_approval"), strict=True):
        make_rule(effect, add_account(app, member_of={tenant.slug: "admin"}))
    response = ask(client, service, question(engineer.email, surface=surface))
    answer = response.get_json()
    assert answer["decision"] == "allowed"
    left_out = {tenant["id"]: tenant["slug"] for tenant in answer["excluded"]["tenants"]}
    assert {str(tenant.id): tenant.slug for tenant in said_no}.items() <= left_out.items()
    assert str(others.id) not in left_out
    assert list(left_out.values()) == sorted(left_out.values())
    assert answer["excluded"]["count"] == len(left_out) == int(response.headers[EXCLUDED_HEADER])
    (event,) = committed(app, UUID(answer["receipt"]))
    assert set(map(str, excluded_by(app, event))) == left_out.keys()
    assert event["scope"]["kind"] == "global"


def grant(
    app: Flask,
    holder: Account,
    tenant: MadeTenant,
    surface: str,
    by: Account,
    lasts: timedelta = timedelta(minutes=30),
) -> UUID:
    """Add a grant that a tenant's admin has approved."""
    now, grant_id = datetime.now(UTC), uuid4()
    values: dict[str, Any] = {
        "id": grant_id,
        "kind": "approval",
        "tenant_id": tenant.id,
        "principal_id": holder.id,
        "principal_email": holder.email,
        "surfaces": [surface],
        "reason_code": "incident",
        "minutes": 30,
        "rule_ids": [],
        "state": "approved",
        "requested_at": now,
        "starts_at": now,
        "ends_at": now + lasts,
        "version": 2,
    }
    approval = {
        "id": uuid4(),
        "grant_id": grant_id,
        "tenant_id": tenant.id,
        "approver_id": by.id,
        "approver_email": by.email,
        "roles": ["admin"],
        "approved_at": now,
    }
    with owner_connection(app) as owner:
        for table in ("grants", "grant_approvals"):
            owner.exec_driver_sql(f"alter table {table} no force row level security")
        owner.execute(insert(GrantRow).values(values))
        owner.execute(insert(GrantApprovalRow).values(approval))
        for table in ("grants", "grant_approvals"):
            owner.exec_driver_sql(f"alter table {table} force row level security")
    with app.app_context(), db.scoped(MaintenanceScope()):
        invalidate(holder_tag(holder.id))
        db.session.commit()
    return grant_id


def test_elevation_requires_an_approval_until_there_is_a_grant(
    app: Flask,
    worker: None,
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    admin: Account,
    engineer: Account,
    surface: str,
    make_rule: MakeRule,
) -> None:
    rule_id = make_rule("require_approval", admin, max_minutes=45)
    body = question(engineer.email, tenant, surface=surface)
    without = answered(client, service, body)
    assert (without["decision"], without["ask"]) == ("approval_required", "/admin/api/grants")
    assert without["rules"] == [str(rule_id)]
    (event,) = committed(app, UUID(without["receipt"]))
    assert event["decision"]["effect"] == "approval_required"
    grant_id = grant(app, engineer, tenant, surface, admin)
    granted = answered(client, service, body)
    assert (granted["decision"], granted["ask"]) == ("allowed", None)
    assert granted["grants"] == [str(grant_id)]
    assert granted["minutes"] == 29  # the grant's, which are less than the rule's
    (event,) = committed(app, UUID(granted["receipt"]))
    assert event["decision"]["grant_ids"] == [str(grant_id)]


def test_repeated_question_opens_one_break_glass_incident(
    app: Flask,
    worker: None,
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    admin: Account,
    engineer: Account,
    surface: str,
    make_rule: MakeRule,
) -> None:
    make_rule("allow", subjects={"roles": ["engineer"]}, reasons=["break_glass"])
    make_rule("require_approval", admin)
    body = question(engineer.email, tenant, "break_glass", surface=surface, ip="203.0.113.9")
    first = ask(client, service, body, "break-glass")
    answer = first.get_json()
    assert answer["decision"] == "allowed", answer["explanation"]
    (incident_id,) = answer["grants"]
    access, opened = sorted(committed(app, *receipt(first)), key=lambda event: event["kind"])
    assert access["id"] == answer["receipt"]
    assert access["decision"]["grant_ids"] == [incident_id]
    for event in (opened, access):
        assert event["actor"]["id"] == str(engineer.id)
        assert event["via"] == via(service)
        assert event["request"]["ip"] == "203.0.113.9"
    assert (opened["kind"], access["kind"]) == ("change", "access")
    again = ask(client, service, body, "break-glass")
    assert (again.data, receipt(again)) == (first.data, [])


def test_stranger_may_not_use_break_glass(
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    surface: str,
    make_rule: MakeRule,
) -> None:
    email = f"{uuid4().hex}@stranger.example"
    make_rule("allow", subjects={"users": [email]}, reasons=["break_glass"])
    body = question(email, tenant, "break_glass", surface=surface)
    answer = answered(client, service, body)
    assert answer["decision"] == "denied"
    assert "use break-glass" in answer["explanation"]


@pytest.mark.parametrize("role", STAFF_ROLES)
def test_elevation_asked_by_a_person_is_refused(
    app: Flask, client: FlaskClient, tenant: MadeTenant, engineer: Account, role: Any
) -> None:
    person = add_account(app, role)
    response = ask(client, person, question(engineer.email, tenant))
    assert (response.status_code, response.get_json()["code"]) == (403, "forbidden")
    assert receipt(response) == []


BAD_QUESTIONS: dict[str, dict[str, Any]] = {
    "principal": {"principal": None},
    "principal.email": {"principal": {"email": "nobody"}},
    "surface": {"surface": "billing.*"},
    "tenant": {"tenant": "No Slug"},
    "reason.code": {"reason": {"code": "because"}},
    "reason.note": {"reason": {"code": "fraud", "note": "a\nb"}},
    "reason.ticket": {"reason": {"code": "fraud", "ticket": ""}},
    "ip": {"ip": "fe80::1%eth0"},
    "roles": {"roles": ["owner"]},
}


@pytest.mark.parametrize("field", BAD_QUESTIONS)
def test_invalid_question_is_refused_by_field(
    client: FlaskClient, service: Account, engineer: Account, field: str
) -> None:
    body = question(engineer.email) | BAD_QUESTIONS[field]
    assert problem(ask(client, service, body)) == (422, "invalid", [field])


def test_question_without_a_tenant_field_is_refused(
    client: FlaskClient, service: Account, engineer: Account
) -> None:
    """A service that forgets the tenant must not get an answer for all tenants."""
    body = question(engineer.email)
    del body["tenant"]
    assert problem(ask(client, service, body)) == (422, "invalid", ["tenant"])
