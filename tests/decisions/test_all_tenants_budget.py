"""All tenants' rules together have a bound, beyond which the largest tenants deny accesses."""

from collections.abc import Collection, Iterator
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.applications import application
from tests.audit.receipts import wait_for
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.processes import run_worker
from tests.rules.calls import PATH, add_rule
from webapp.decisions import over_budget
from webapp.rules import rule_sets
from webapp.rules.engine.evaluate import count_all_conditions
from webapp.rules.rule_sets import ALL_TENANTS, Owner, read_rules
from webapp.stack.home import Stack

TENANTS = 8
CONDITIONS = 21
"""Of each rule: a surface, and twenty users."""


@pytest.fixture(scope="module")
def environment(filled_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Servers of this module's own: other tests leave rules that cover every surface."""
    return {"SIGHTLINE_HOME": str(tmp_path_factory.mktemp("home")), **filled_stack.environment}


@pytest.fixture(scope="module")
def app(environment: dict[str, str]) -> Iterator[Flask]:
    with application(environment) as app:
        yield app


@pytest.fixture(scope="module")
def worker(
    app: Flask, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    assert app
    with run_worker(environment, tmp_path_factory.mktemp("worker") / "worker.log"):
        yield


@pytest.fixture
def surface() -> str:
    """A surface that no other test's rules cover."""
    return f"s{uuid4().hex}.list"


@pytest.fixture(autouse=True)
def _forgotten(app: Flask) -> Iterator[None]:
    """Nothing is prepared before the test, or kept after it."""
    rule_sets.init_app(app)
    over_budget.init_app(app)
    yield
    rule_sets.init_app(app)
    over_budget.init_app(app)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[set[Any]]:
    """The tenants whose rules were loaded, in each query."""
    queries: list[set[Any]] = []
    load = rule_sets.load_candidates

    def noted(owner: Owner, surface: str, tenant_ids: Collection[Any] | None = None) -> Any:
        queries.append({owner.tenant_id} if tenant_ids is None else set(tenant_ids))
        return load(owner, surface, tenant_ids)

    monkeypatch.setattr(rule_sets, "load_candidates", noted)
    return queries


def with_rules(
    app: Flask, client: FlaskClient, surface: str, rules: int, users: int = CONDITIONS - 1
) -> tuple[MadeTenant, Account]:
    """A tenant whose rules apply to no access to the surface, and its admin."""
    tenant = add_tenant(app)
    admin = add_account(app, member_of={tenant.slug: "admin"})
    named = [f"{number}@example.org" for number in range(users)]
    for number in range(rules):
        fields = {"surfaces": [surface], "subjects": {"users": named}}
        add_rule(client, admin.headers(), f"rule {number}", **fields)
    return tenant, admin


def test_rules_of_all_tenants_are_loaded_up_to_a_number_of_conditions(
    app: Flask,
    client: FlaskClient,
    surface: str,
    loaded: list[set[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitting = 5
    budget = (fitting + 1) * CONDITIONS - 1
    monkeypatch.setattr(rule_sets, "ALL_CONDITIONS", budget)
    made = [with_rules(app, client, surface, 1)[0].id for _ in range(TENANTS)]
    with app.app_context():
        rules = read_rules(ALL_TENANTS, surface)
    left_out = [candidate.tenant_id for candidate in rules.over_budget]
    assert len(rules.candidates) == fitting
    assert count_all_conditions(rules.candidates) <= budget
    assert len(left_out) == TENANTS - fitting
    assert loaded == [set(made) - set(left_out)]


def test_smallest_tenants_come_first_and_a_large_one_comes_back_when_it_has_shrunk(
    app: Flask,
    client: FlaskClient,
    surface: str,
    loaded: list[set[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rule_sets, "ALL_CONDITIONS", 3 * CONDITIONS)
    large, admin = with_rules(app, client, surface, 3)
    small, _ = with_rules(app, client, surface, 1)
    with app.app_context():
        before = read_rules(ALL_TENANTS, surface)
    assert [candidate.tenant_id for candidate in before.over_budget] == [large.id]
    assert {candidate.tenant_id for candidate in before.candidates} == {small.id}
    listed = client.get(PATH, headers=admin.headers()).get_json()["items"]
    headers = admin.headers() | {"If-Match": "*"}
    client.delete(f"{PATH}/{listed[0]['id']}", headers=headers)
    with app.app_context():
        after = read_rules(ALL_TENANTS, surface)
    assert after.over_budget == ()
    assert len(after.candidates) == 3
    assert loaded == [{small.id}, {large.id}]


@pytest.mark.usefixtures("worker")
def test_tenant_with_more_rules_than_are_loaded_denies_and_is_told_which(
    app: Flask,
    client: FlaskClient,
    engineer: Account,
    loaded: list[set[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rule_sets, "TENANT_RULES", 2)
    monkeypatch.setattr(rule_sets, "NAMED", 2)
    surface = "admin.rules.list"
    giant, admin = with_rules(app, client, surface, 3, users=1)
    modest, _ = with_rules(app, client, surface, 2, users=1)
    for tenant, status in ((giant, 403), (modest, 200)):
        headers = engineer.headers(f"tenant:{tenant.slug}", INCIDENT)
        assert client.get(PATH, headers=headers).status_code == status
    assert {giant.id} not in loaded
    seen = client.get(PATH, headers=engineer.headers("global", INCIDENT), query_string={
        "tenant": giant.slug
    })  # fmt: skip
    assert seen.get_json()["items"] == []
    assert all(giant.id not in tenants for tenants in loaded)

    def events() -> Any:
        query = {"surface": "rules.over_budget"}
        answer = client.get("/admin/api/audits", headers=admin.headers(), query_string=query)
        return answer.get_json()["items"]

    wait_for(lambda: events() != [])
    (event,) = events()
    assert (event["rows"], event["scope"]["tenant"]) == (3, giant.slug)
    listed = client.get(PATH, headers=admin.headers()).get_json()["items"]
    assert set(event["decision"]["rule_ids"]) <= {rule["id"] for rule in listed}
    assert len(event["decision"]["rule_ids"]) == 2


def test_what_is_prepared_for_many_surfaces_is_bounded_together(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule_sets, "KEPT_CONDITIONS", 5 * CONDITIONS)
    monkeypatch.setattr(rule_sets, "MAX_SURFACES", 5 * CONDITIONS)
    rule_sets.init_app(app)
    prefix = f"s{uuid4().hex}"
    with_rules(app, client, f"{prefix}.*", 2)
    with app.app_context():
        for number in range(10):
            read_rules(ALL_TENANTS, f"{prefix}.s{number}")
        kept = app.extensions["sightline.rule_sets"].everyone
        there = [number for number in range(10) if kept.entry(f"{prefix}.s{number}")]
    assert there == [8, 9]
