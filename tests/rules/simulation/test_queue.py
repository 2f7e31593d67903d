"""Long simulations: a worker carries them out, one at a time, and who asked fetches the result."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete, select, update
from werkzeug.test import TestResponse

import tasks.rules as task
from tests.audit.receipts import committed, events_of_request, receipt, wait_for
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.rules.calls import add_rule, draft, problem
from tests.rules.simulation.history import SIMULATE, PastAccesses
from webapp.db.scopes import Exclusion, GlobalScope, MaintenanceScope, Scope, TenantScope
from webapp.extensions import db
from webapp.http.errors import RateLimited
from webapp.rules import rule_sets, views
from webapp.rules.simulation import history, queue, service
from webapp.rules.simulation.models import SimulationRow
from webapp.rules.simulation.replay import Budget
from webapp.worker import after_commit

NOTHING = Budget(events=1000, seconds=0.0)
"""A request with this budget hands every simulation to a worker."""


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that a worker would be woken by, each of which a test runs itself."""
    sent: list[str] = []
    for sender in (after_commit, task):
        monkeypatch.setattr(sender, "send_soon", sent.append)
    return sent


@pytest.fixture(autouse=True)
def _requests_have_no_time(
    app: Flask, past: PastAccesses, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    past.add(None, "any@example.org", surface="seen.by.all")  # without any there is nothing to do
    monkeypatch.setattr(views, "IN_REQUEST", NOTHING)
    yield
    with app.app_context(), db.scoped(MaintenanceScope()):
        db.session.execute(delete(SimulationRow))
        db.session.commit()


def ask(client: FlaskClient, headers: dict[str, str], surface: str, **body: Any) -> TestResponse:
    given = {"rule": draft(surfaces=[surface]), "days": 3} | body
    return client.post(SIMULATE, headers=headers, json=given)


def accepted(answer: TestResponse) -> str:
    """The path of the result of a simulation that was handed to a worker."""
    assert answer.status_code == 202, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    path: str = answer.headers["Location"]
    assert path == f"/admin/api/rules/simulations/{answer.get_json()['id']}"
    assert (answer.get_json()["state"], answer.get_json()["past"]) == ("queued", None)
    return path


def fetched(client: FlaskClient, headers: dict[str, str], path: str) -> dict[str, Any]:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.get_json()
    assert ("Retry-After" in answer.headers) is (found["state"] in ("queued", "running"))
    return found


@pytest.fixture(autouse=True)
def _no_simulations_of_other_tests(app: Flask) -> None:
    with app.app_context(), db.scoped(MaintenanceScope()):
        db.session.execute(delete(SimulationRow))
        db.session.commit()


def rows(app: Flask, scope: Scope | None = None) -> Sequence[SimulationRow]:
    with app.app_context(), db.scoped(scope or MaintenanceScope()):
        return db.session.scalars(select(SimulationRow).order_by(SimulationRow.asked_at)).all()


def change(app: Flask, **values: Any) -> None:
    with app.app_context(), db.scoped(MaintenanceScope()):
        db.session.execute(update(SimulationRow).values(**values))
        db.session.commit()


def carry_out(app: Flask) -> None:
    app.extensions["celery"].tasks[queue.SIMULATE_TASK].apply(throw=True)


@pytest.mark.slow(seconds=3)
def test_simulation_that_a_request_has_no_time_for_is_fetched_from_a_real_worker(
    client: FlaskClient, worker: None, past: PastAccesses, tenant: MadeTenant, admin: Account
) -> None:
    made = past.add(tenant, "sue@example.org")
    path = accepted(ask(client, admin.headers(), past.surface))
    wait_for(lambda: fetched(client, admin.headers(), path)["state"] == "done")
    found = fetched(client, admin.headers(), path)
    assert (found["past"]["changed"], found["past"]["truncated"]) == (1, False)
    assert [access["id"] for access in found["past"]["accesses"]] == [str(made.id)]
    assert found["problem"] is None


def test_worker_sees_what_the_scope_of_the_request_saw(
    app: Flask,
    client: FlaskClient,
    woken: list[str],
    past: PastAccesses,
    tenant: MadeTenant,
    admin: Account,
    everywhere: dict[str, str],
) -> None:
    past.add(tenant, "sue@example.org")
    past.add(add_tenant(app), "tom@example.org")
    paths = [
        accepted(ask(client, headers, past.surface)) for headers in (admin.headers(), everywhere)
    ]
    assert woken == [queue.SIMULATE_TASK] * 2
    carry_out(app)
    carry_out(app)
    own, all_tenants = (
        {actor["actor"] for actor in fetched(client, headers, path)["past"]["actors"]}
        for headers, path in zip((admin.headers(), everywhere), paths, strict=True)
    )
    assert own == {"sue@example.org"}
    assert {"sue@example.org", "tom@example.org"} <= all_tenants


def test_history_beyond_the_workers_budget_says_what_was_covered(
    app: Flask,
    client: FlaskClient,
    woken: list[str],
    past: PastAccesses,
    tenant: MadeTenant,
    admin: Account,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [past.add(tenant, "sue@example.org") for _ in range(3)]
    monkeypatch.setattr(history, "PAGE", 1)
    monkeypatch.setattr(task, "BEYOND_REQUEST", Budget(events=2, seconds=60.0))
    path = accepted(ask(client, admin.headers(), past.surface))
    carry_out(app)
    found = fetched(client, admin.headers(), path)["past"]
    assert found["truncated"]
    assert (
        found["examined"] <= 2
    )  # of the tenant's, or of all tenants', which other tests have made
    assert datetime.fromisoformat(found["covered_from"]) >= made[1].occurred_at


def test_second_simulation_of_a_tenant_is_refused_while_one_waits(
    client: FlaskClient,
    app: Flask,
    woken: list[str],
    surface: str,
    tenant: MadeTenant,
    admin: Account,
    outsider: Account,
    engineer: Account,
) -> None:
    accepted(ask(client, admin.headers(), surface))
    colleague = add_account(app, member_of={tenant.slug: "admin"})
    for account in (admin, colleague):
        refused = ask(client, account.headers(), surface)
        assert problem(refused) == (429, "rate_limited", [])
        assert int(refused.headers["Retry-After"]) > 0
    accepted(ask(client, outsider.headers(), surface))
    staff = engineer.headers(f"tenant:{tenant.slug}", INCIDENT)
    accepted(ask(client, staff, surface))
    assert ask(client, staff, surface).status_code == 429
    elsewhere = engineer.headers(f"tenant:{add_tenant(app).slug}", INCIDENT)
    assert ask(client, elsewhere, surface).status_code == 429
    described = {"email": "a@b.c", "surface": surface, "reason": "legal"}
    assert ask(client, admin.headers(), surface, access=described, days=None).status_code == 200


def test_second_simulation_is_refused_while_a_request_carries_one_out(
    app: Flask, client: FlaskClient, woken: list[str], surface: str, tenant: MadeTenant,
    admin: Account,
) -> None:  # fmt: skip
    with app.app_context(), db.scoped(TenantScope(tenant.id)), queue.one_at_a_time(tenant.id):
        assert problem(ask(client, admin.headers(), surface)) == (429, "rate_limited", [])
        with pytest.raises(RateLimited), queue.one_at_a_time(tenant.id):
            raise AssertionError
    accepted(ask(client, admin.headers(), surface))


def test_only_one_simulation_is_carried_out_at_a_time(
    app: Flask,
    client: FlaskClient,
    woken: list[str],
    surface: str,
    admin: Account,
    outsider: Account,
) -> None:
    paths = [accepted(ask(client, who.headers(), surface)) for who in (admin, outsider)]
    woken.clear()
    with app.app_context(), db.scoped(MaintenanceScope()):
        taken = queue.take()
        db.session.commit()
        assert taken is not None
        assert queue.take() is None
        db.session.rollback()
        queue.store(taken.id, None, "lost")
        db.session.commit()
    carry_out(app)
    assert woken == [queue.SIMULATE_TASK]  # for the next one
    states = [
        fetched(client, who.headers(), path)["state"]
        for who, path in zip((admin, outsider), paths, strict=True)
    ]
    assert states == ["failed", "done"]


def test_result_is_seen_by_nobody_else_and_in_no_other_scope(
    app: Flask,
    client: FlaskClient,
    woken: list[str],
    surface: str,
    tenant: MadeTenant,
    admin: Account,
    outsider: Account,
    everywhere: dict[str, str],
    engineer: Account,
) -> None:
    path = accepted(ask(client, admin.headers(), surface))
    platforms = accepted(ask(client, everywhere, surface))
    carry_out(app)
    carry_out(app)
    colleague = add_account(app, member_of={tenant.slug: "admin"})
    there = f"tenant:{tenant.slug}"
    for headers in (
        outsider.headers(),
        colleague.headers(),
        everywhere,
        engineer.headers(there, INCIDENT),
        engineer.headers("global", INCIDENT),
    ):
        assert problem(client.get(path, headers=headers)) == (404, "not_found", [])
    for headers in (admin.headers(), engineer.headers("global", INCIDENT)):
        assert problem(client.get(platforms, headers=headers)) == (404, "not_found", [])
    assert fetched(client, everywhere, platforms)["state"] == "done"
    member = add_account(app, member_of={tenant.slug: "member"})
    assert client.get(path, headers=member.headers()).status_code == 403
    unknown = f"/admin/api/rules/simulations/{uuid4()}"
    assert problem(client.get(unknown, headers=admin.headers())) == (404, "not_found", [])


def test_database_shows_a_scope_its_own_simulations_only(
    app: Flask,
    client: FlaskClient,
    woken: list[str],
    surface: str,
    tenant: MadeTenant,
    admin: Account,
    everywhere: dict[str, str],
) -> None:
    other = add_tenant(app)
    accepted(ask(client, admin.headers(), surface))
    accepted(ask(client, everywhere, surface))
    excluded = Exclusion(frozenset({other.id}))
    assert [row.tenant_id for row in rows(app, TenantScope(tenant.id))] == [tenant.id]
    assert rows(app, TenantScope(other.id)) == []
    assert [row.tenant_id for row in rows(app, GlobalScope(uuid4()))] == [None]
    # Since then another tenant has said no.
    assert rows(app, GlobalScope(uuid4(), excluded)) == []
    change(app, excluded_tenant_ids=[other.id])
    assert [row.tenant_id for row in rows(app, GlobalScope(uuid4(), excluded))] == [None]


def test_tenant_that_says_no_later_is_not_in_a_fetched_result(
    app: Flask,
    client: FlaskClient,
    woken: list[str],
    past: PastAccesses,
    tenant: MadeTenant,
    admin: Account,
    everywhere: dict[str, str],
) -> None:
    past.add(tenant, "sue@example.org")
    path = accepted(ask(client, everywhere, past.surface))
    carry_out(app)
    assert fetched(client, everywhere, path)["past"]["changed"] == 1
    add_rule(client, admin.headers(), surfaces=["admin.rules.simulation"])
    assert problem(client.get(path, headers=everywhere)) == (404, "not_found", [])


def test_asking_and_fetching_leave_one_record_each_and_the_worker_none(
    app: Flask,
    client: FlaskClient,
    worker: None,
    past: PastAccesses,
    tenant: MadeTenant,
    admin: Account,
    engineer: Account,
) -> None:
    past.add(tenant, "sue@example.org")
    headers = engineer.headers(f"tenant:{tenant.slug}", INCIDENT)
    asked = ask(client, headers, past.surface)
    path = accepted(asked)
    state = ""
    while state != "done":
        answer = client.get(path, headers=headers)
        state = answer.get_json()["state"]
    examined = answer.get_json()["past"]["examined"]
    events = committed(app, *receipt(asked), *receipt(answer))
    assert [(e["surface"], e["kind"], e["rows"], e["outcome"]) for e in events] == [
        ("admin.rules.simulate", "access", None, "served"),
        ("admin.rules.simulation", "access", examined, "served"),
    ]
    for answered in (asked, answer):
        assert len(events_of_request(app, answered.headers["X-Request-ID"])) == 1
    at_home = ask(client, admin.headers(), past.surface)
    assert "Sightline-Audit" not in at_home.headers
    assert "Sightline-Audit" not in client.get(accepted(at_home), headers=admin.headers()).headers


def test_simulation_that_no_worker_carries_out_fails_and_makes_room(
    app: Flask, client: FlaskClient, woken: list[str], surface: str, admin: Account
) -> None:
    path = accepted(ask(client, admin.headers(), surface))
    change(app, until=datetime.now(UTC) - timedelta(seconds=1))
    found = fetched(client, admin.headers(), path)
    assert (found["state"], found["problem"]) == ("failed", queue.NOT_IN_TIME)
    carry_out(app)  # takes what is overdue no more
    app.extensions["celery"].tasks["rules.forget_simulations"].apply(throw=True)
    assert [row.state for row in rows(app)] == ["failed"]
    assert fetched(client, admin.headers(), path)["problem"] == queue.NOT_IN_TIME
    accepted(ask(client, admin.headers(), surface))


def test_simulation_whose_rule_has_gone_says_so(
    app: Flask, client: FlaskClient, woken: list[str], surface: str, admin: Account
) -> None:
    rule = add_rule(client, admin.headers(), surfaces=[surface])
    path = accepted(
        ask(client, admin.headers(), surface, rule=None, remove=True, replaces=rule["id"])
    )
    headers = admin.headers() | {"If-Match": "*"}
    client.delete(f"/admin/api/rules/{rule['id']}", headers=headers)
    carry_out(app)
    found = fetched(client, admin.headers(), path)
    assert (found["state"], found["problem"]) == ("failed", "There is no such rule.")


def test_results_are_bounded_in_number_and_age(
    app: Flask, client: FlaskClient, woken: list[str], surface: str, admin: Account
) -> None:
    for _ in range(queue.KEPT_EACH + 2):
        last = accepted(ask(client, admin.headers(), surface))
        carry_out(app)
    assert len(rows(app)) == queue.KEPT_EACH
    assert fetched(client, admin.headers(), last)["state"] == "done"
    change(app, until=datetime.now(UTC) - timedelta(seconds=1))
    assert problem(client.get(last, headers=admin.headers())) == (404, "not_found", [])
    app.extensions["celery"].tasks["rules.forget_simulations"].apply(throw=True)
    assert rows(app) == []


def test_only_the_rules_of_tenants_in_the_history_are_read(
    app: Flask,
    client: FlaskClient,
    woken: list[str],
    past: PastAccesses,
    tenant: MadeTenant,
    outsider: Account,
    everywhere: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_rule(client, outsider.headers(), surfaces=[past.surface])
    past.add(tenant, "sue@example.org")
    past.add(tenant, "tom@example.org")
    read: list[set[UUID]] = []
    load = rule_sets.load_of_tenants

    def noted(surface: str, tenant_ids: Any) -> Any:
        if surface == past.surface:
            read.append(set(tenant_ids))
        return load(surface, tenant_ids)

    monkeypatch.setattr(service, "load_of_tenants", noted)
    accepted(ask(client, everywhere, past.surface))
    carry_out(app)
    assert read == [{tenant.id}]
