"""POST /admin/api/rules/simulate: what a draft would change, who sees it, and no writes."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event

from tests.audit.events import excluding
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.operators import WHY
from tests.rules.calls import add_rule, delete, draft, problem
from tests.rules.simulation.history import SIMULATE, PastAccesses
from webapp.audit.event import (
    Actor,
    EventDecision,
    Reason,
)
from webapp.extensions import db
from webapp.rules import views
from webapp.rules.simulation.replay import Budget

NO_EXCLUSION = str(UUID(int=0))


@pytest.fixture(autouse=True)
def _time_for_any_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may have recorded more than a request looks at."""
    monkeypatch.setattr(views, "IN_REQUEST", Budget(events=10**6, seconds=600.0))


def simulate(client: FlaskClient, headers: dict[str, str], **body: Any) -> dict[str, Any]:
    response = client.post(SIMULATE, headers=headers, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.get_json()
    return answer


def described(surface: str, **changes: Any) -> dict[str, Any]:
    access = {"email": "kim@example.org", "roles": ["support"], "reason": "support_case"}
    return access | {"surface": surface} | changes


def _access(client: FlaskClient, headers: dict[str, str], **body: Any) -> tuple[Any, Any]:
    answer = simulate(client, headers, **body)
    assert answer["past"] is None
    return answer["access"]["before"], answer["access"]["after"]


def test_described_access_is_decided_without_the_draft_and_with_it(
    client: FlaskClient, tenant: MadeTenant, everywhere: dict[str, str], surface: str
) -> None:
    rule = draft("Not at night", tenant=tenant.slug, surfaces=[surface])
    before, after = _access(
        client, everywhere, rule=rule, access=described(surface, tenant=tenant.slug)
    )
    assert before["effect"] == "allowed"
    assert before["explanation"] == "The platform's rule “Staff access” allows it."
    assert after == {
        "effect": "denied",
        "explanation": f"{tenant.slug.capitalize()}'s rule “Not at night” denies it.",
        "named": [{"id": NO_EXCLUSION, "name": "Not at night", "owner": tenant.slug}],
        "rule_ids": [NO_EXCLUSION],
        "excluded_count": 0,
        "excluded_tenant_ids": [],
        "excluded": None,
    }


def test_every_attribute_of_a_described_access_counts(
    app: Flask, client: FlaskClient, tenant: MadeTenant, everywhere: dict[str, str], surface: str
) -> None:
    rule = draft(
        tenant=tenant.slug,
        surfaces=[surface],
        effect="deny",
        subjects={"roles": ["support"], "users": []},
        reasons=["fraud"],
        ticket="INC-*",
        networks=["10.0.0.0/8"],
        windows=[{"days": ["wed"], "from": "09:00", "to": "17:00", "tz": "Europe/Berlin"}],
        mfa=True,
    )
    meets = {
        "reason": "fraud",
        "ticket": "INC-7",
        "ip": "10.1.2.3",
        "at": "2026-11-25T08:30:00Z",
        "tenant": tenant.slug,
    }
    for other in (
        {},
        {"reason": "legal"},
        {"roles": ["engineer"]},
        {"ticket": None},
        {"ip": "11.0.0.1"},
        {"at": "2026-11-25T17:00:00+01:00"},
        {"mfa": True},
        {"tenant": add_tenant(app).slug},
    ):
        access = described(surface, **(meets | other))
        _, after = _access(client, everywhere, rule=rule, access=access)
        assert after["effect"] == ("allowed" if other else "denied"), other


def test_described_access_to_all_tenants_lists_the_excluded_ones(
    client: FlaskClient,
    tenant: MadeTenant,
    outsider: Account,
    everywhere: dict[str, str],
    surface: str,
) -> None:
    add_rule(client, outsider.headers(), surfaces=[surface])
    rule = draft("new", tenant=tenant.slug, surfaces=[surface], effect="require_approval")
    before, after = _access(client, everywhere, rule=rule, access=described(surface))
    assert (before["effect"], after["effect"]) == ("allowed", "allowed")
    left_out = before["excluded_count"]  # those of other tests, and the outsider's
    assert len(before["excluded_tenant_ids"]) == left_out >= 1
    assert after["excluded_count"] == left_out + 1
    ids = set(after["excluded_tenant_ids"]) - set(before["excluded_tenant_ids"])
    assert ids == {str(tenant.id)}
    assert after["explanation"].endswith(f"without {left_out + 1} tenants that said no.")


def test_simulation_can_replace_a_rule_or_remove_it(
    client: FlaskClient, tenant: MadeTenant, admin: Account, surface: str
) -> None:
    rule = add_rule(client, admin.headers(), surfaces=[surface])
    access = described(surface, tenant=tenant.slug)
    softer = draft(surfaces=[surface], effect="require_approval")
    before, after = _access(
        client, admin.headers(), rule=softer, replaces=rule["id"], access=access
    )
    assert (before["effect"], after["effect"]) == ("denied", "approval_required")
    assert after["rule_ids"] == [rule["id"]]
    before, after = _access(
        client, admin.headers(), replaces=rule["id"], remove=True, access=access
    )
    assert (before["effect"], after["effect"]) == ("denied", "allowed")


def test_tenant_sees_only_its_own_part_of_a_simulation(
    client: FlaskClient, tenant: MadeTenant, admin: Account, outsider: Account, surface: str
) -> None:
    add_rule(client, outsider.headers(), surfaces=[surface])
    rule = draft("ours", surfaces=[surface])
    before, after = _access(client, admin.headers(), rule=rule, access=described(surface))
    for view, is_left_out in ((before, False), (after, True)):
        assert view["effect"] == "allowed"
        assert view["excluded"] is is_left_out
        assert view["excluded_count"] is None
        assert view["excluded_tenant_ids"] is None
        assert "Staff access" not in view["explanation"]


def _days(client: FlaskClient, headers: dict[str, str], **body: Any) -> dict[str, Any]:
    answer = simulate(client, headers, **({"days": 30} | body))
    assert answer["access"] is None
    replay: dict[str, Any] = answer["past"]
    return replay


def test_simulation_decides_the_accesses_of_the_last_days_again(
    client: FlaskClient, past: PastAccesses, tenant: MadeTenant, everywhere: dict[str, str]
) -> None:
    now = datetime.now(UTC)
    accesses = [
        past.add(tenant, "sue@example.org", occurred_at=now - timedelta(hours=3)),
        past.add(None, "tom@example.org", occurred_at=now - timedelta(hours=2)),
        past.add(tenant, "sue@example.org", occurred_at=now - timedelta(hours=1), kind="change"),
    ]
    past.add(add_tenant(past.app), "sue@example.org")
    past.add(tenant, "sue@example.org", occurred_at=now - timedelta(days=31))
    rule = draft(tenant=tenant.slug, surfaces=[past.surface])
    found = _days(client, everywhere, rule=rule)
    assert found["examined"] >= 4
    assert (found["changed"], found["truncated"]) == (3, False)
    assert found["shifts"] == [
        {"before": "allowed", "after": "denied", "accesses": 2},
        {"before": "included", "after": "excluded", "accesses": 1},
    ]
    assert found["actors"] == [
        {"actor": "sue@example.org", "accesses": 2},
        {"actor": "tom@example.org", "accesses": 1},
    ]
    assert [access["id"] for access in found["accesses"]] == [str(e.id) for e in reversed(accesses)]
    assert found["accesses"][0] == {
        "id": str(accesses[2].id),
        "occurred_at": accesses[2].occurred_at.isoformat(),
        "actor": "sue@example.org",
        "surface": past.surface,
        "reason": "incident",
        "before": "allowed",
        "after": "denied",
    }
    assert _days(client, everywhere, rule=rule, days=1)["changed"] == 3
    later = rule | {"starts_at": (now - timedelta(minutes=90)).isoformat()}
    assert _days(client, everywhere, rule=later)["changed"] == 1


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"reason": Reason(code="fraud", ticket=None, note=None)}, False),
        ({"reason": None, "kind": "change"}, False),
        ({"decision": EventDecision("allowed", None, (uuid4(),), 1, ())}, False),
        ({"decision": EventDecision("denied")}, False),
        ({"decision": EventDecision("denied", policy_version=1), "outcome": "denied"}, True),
    ],
    ids=["elevation", "reason", "no reason", "granted", "refused by role", "denied by rules"],
)
def test_past_access_has_the_attributes_of_its_event(
    client: FlaskClient,
    past: PastAccesses,
    tenant: MadeTenant,
    everywhere: dict[str, str],
    changes: dict[str, Any],
    counts: bool,
) -> None:
    past.add(tenant, "sue@example.org", **changes)
    rule = draft(
        tenant=tenant.slug,
        surfaces=[past.surface],
        effect="require_approval",
        subjects={"roles": ["member"], "users": []},
        reasons=["incident"],
        ticket="INC-1",
        networks=["127.0.0.0/8"],
    )
    assert _days(client, everywhere, rule=rule)["changed"] == int(counts)


def test_past_access_in_the_own_tenant_never_changes(
    client: FlaskClient, past: PastAccesses, tenant: MadeTenant, everywhere: dict[str, str]
) -> None:
    roles = ("support", f"{tenant.slug}:admin")
    own = Actor(email="a@b.c", id=uuid4(), roles=roles, token_id=None)
    past.add(tenant, "a@b.c", actor=own, kind="change")
    rule = draft(tenant=tenant.slug, surfaces=[past.surface])
    assert _days(client, everywhere, rule=rule)["changed"] == 0


def test_tenant_simulates_on_the_accesses_that_it_sees(
    client: FlaskClient, past: PastAccesses, tenant: MadeTenant, admin: Account, outsider: Account
) -> None:
    other = add_tenant(past.app)
    past.add(tenant, "sue@example.org")
    past.add(other, "not@example.org")
    past.add(None, "tom@example.org")
    left_out = replace(excluding(frozenset({tenant.id})).decision, policy_version=1)
    past.add(None, "out@example.org", decision=left_out)
    found = _days(client, admin.headers(), rule=draft(surfaces=[past.surface]))
    assert {actor["actor"] for actor in found["actors"]} == {"sue@example.org", "tom@example.org"}
    assert {(s["before"], s["after"]) for s in found["shifts"]} == {
        ("allowed", "denied"),
        ("included", "excluded"),
    }
    outsiders = _days(client, outsider.headers(), rule=draft(surfaces=[past.surface]))
    assert "sue@example.org" not in {actor["actor"] for actor in outsiders["actors"]}


def test_simulation_only_reads_from_the_database(
    app: Flask, client: FlaskClient, past: PastAccesses, everywhere: dict[str, str], surface: str
) -> None:
    past.add(None, "sue@example.org")
    statements: list[str] = []

    def listen(*arguments: Any) -> None:
        statements.append(arguments[2])

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", listen)
    try:
        for body in ({"days": 30}, {"access": described(surface)}):
            simulate(client, everywhere, rule=draft(surfaces=[surface]), **body)
    finally:
        event.remove(engine, "before_cursor_execute", listen)
    assert any("FROM audit_events" in statement for statement in statements)
    assert {statement.split()[0].upper() for statement in statements} == {"SELECT"}


def test_simulation_is_recorded_when_elevated_and_not_in_the_own_tenant(
    client: FlaskClient, admin: Account, everywhere: dict[str, str], surface: str
) -> None:
    body = {"rule": draft(surfaces=[surface]), "access": described(surface)}
    elevated = client.post(SIMULATE, headers=everywhere, json=body)
    assert UUID(elevated.headers["Sightline-Audit"])
    at_home = client.post(SIMULATE, headers=admin.headers(), json=body)
    assert at_home.status_code == 200
    assert "Sightline-Audit" not in at_home.headers


def test_simulation_without_the_role_is_refused(
    app: Flask, client: FlaskClient, member: Account, surface: str
) -> None:
    body = {"rule": draft(surfaces=[surface]), "access": described(surface)}
    refused = client.post(SIMULATE, headers=member.headers(), json=body)
    assert problem(refused) == (403, "forbidden", [])
    support = add_account(app, "support").headers("global", INCIDENT)
    assert problem(client.post(SIMULATE, headers=support, json=body))[:2] == (
        403,
        "elevation_denied",
    )
    for role in ("engineer", "auditor"):
        headers = add_account(app, role).headers("global", INCIDENT)
        assert client.post(SIMULATE, headers=headers, json=body).status_code == 200


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["access", "rule"]),
        ({"rule": draft(), "days": 1, "access": described("a.b")}, ["access"]),
        ({"rule": draft(), "days": 91}, ["days"]),
        ({"rule": draft(), "days": 0}, ["days"]),
        ({"rule": draft(), "remove": True, "days": 1}, ["replaces", "rule"]),
        ({"remove": True, "days": 1}, ["replaces"]),
        ({"rule": draft(effect="no"), "days": 1}, ["rule.effect"]),
        ({"rule": draft(), "access": described("a.*")}, ["access.surface"]),
        ({"rule": draft(), "access": described("a", tenant="no-such")}, ["access.tenant"]),
        ({"rule": draft(tenant="no-such"), "days": 1}, ["rule.tenant"]),
        ({"rule": draft(tenant=None), "days": 1}, ["rule.tenant"]),
        (
            {
                "rule": draft(starts_at="2026-01-02T00:00:00Z", ends_at="2026-01-01T00:00:00Z"),
                "days": 1,
            },
            ["ends_at"],
        ),
    ],
)
def test_invalid_simulation_is_refused_by_field(
    client: FlaskClient, admin: Account, body: dict[str, Any], fields: list[str]
) -> None:
    response = client.post(SIMULATE, headers=admin.headers(), json=body)
    assert problem(response) == (422, "invalid", fields)


def test_simulation_that_replaces_an_invisible_rule_is_not_found(
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    outsider: Account,
    everywhere: dict[str, str],
    surface: str,
) -> None:
    rule = add_rule(client, outsider.headers(), surfaces=[surface])
    body = {"replaces": rule["id"], "remove": True, "access": described(surface)}
    response = client.post(SIMULATE, headers=admin.headers(), json=body)
    assert problem(response) == (404, "not_found", [])
    assert client.post(SIMULATE, headers=everywhere, json=body).status_code == 200
    other = body | {"remove": False, "rule": draft(tenant=tenant.slug)}
    response = client.post(SIMULATE, headers=everywhere, json=other)
    assert problem(response) == (422, "invalid", ["replaces"])
    assert delete(client, outsider, rule).status_code == 204
    response = client.post(SIMULATE, headers=everywhere, json=body)
    assert problem(response) == (404, "not_found", [])


def _command(app: Flask, tmp_path: Path, rule: Any, *options: str) -> Result:
    (tmp_path / "draft.yaml").write_text(yaml.safe_dump(rule))
    arguments = ["rules", "simulate", str(tmp_path / "draft.yaml"), *options, *WHY]
    return app.test_cli_runner().invoke(args=arguments)


def test_simulate_command_shows_what_the_route_answers(
    app: Flask,
    client: FlaskClient,
    past: PastAccesses,
    tenant: MadeTenant,
    admin: Account,
    tmp_path: Path,
) -> None:
    past.add(tenant, "sue@example.org")
    there = add_rule(client, admin.headers(), surfaces=[past.surface])
    rule = draft(tenant=tenant.slug, surfaces=["other"])
    body = ("--days", "3", "--replaces", there["id"])
    found = json.loads(_command(app, tmp_path, rule, *body, "--json").stdout)
    assert found["shifts"] == [{"before": "denied", "after": "allowed", "accesses": 1}]
    assert [access["actor"] for access in found["accesses"]] == ["sue@example.org"]
    lines = _command(app, tmp_path, rule, *body).stdout.splitlines()
    assert lines[0].startswith("1 of ")
    assert any("sue@example.org" in line for line in lines[1:])


def test_simulate_command_refuses_an_invalid_draft(app: Flask, tmp_path: Path) -> None:
    for rule in ([draft()], draft(effect="no"), draft(tenant="no-such-tenant")):
        refused = _command(app, tmp_path, rule)
        assert (refused.exit_code, refused.stdout) == (1, "")
