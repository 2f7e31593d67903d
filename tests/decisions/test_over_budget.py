"""A tenant whose rules take too long to prepare counts as having denied, and its admin is told."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.audit.receipts import wait_for
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.rules.calls import PATH, add_rule, draft, names, patch, problem
from webapp.decisions import over_budget
from webapp.rules import narrowing, rule_sets
from webapp.rules.engine import evaluate

SURFACE = "admin.rules.list"
RULES = 3


@pytest.fixture
def _without_budget(app: Flask) -> Iterator[None]:
    """Let the rules of a tenant with more than a few conditions exceed the budget."""
    with (
        mock.patch.object(narrowing, "BUDGET", 0.0),
        mock.patch.object(evaluate, "BATCH_SIZE", 1),
    ):
        forget(app)
        yield
    forget(app)


def forget(app: Flask) -> None:
    """Empty what the process keeps of rules, and of whom it has told."""
    rule_sets.init_app(app)
    over_budget.init_app(app)


@pytest.fixture
def large(client: FlaskClient, admin: Account) -> list[dict[str, Any]]:
    """Rules that apply to no access, with more conditions than a group's tenants have."""
    users = [f"{number}@example.org" for number in range(20)]
    fields = {"surfaces": [SURFACE], "reasons": ["fraud"], "subjects": {"users": users}}
    return [add_rule(client, admin.headers(), f"rule {n}", **fields) for n in range(RULES)]


@pytest.fixture
def modest(app: Flask, client: FlaskClient) -> MadeTenant:
    """Another tenant, with a rule that applies to no access."""
    tenant = add_tenant(app)
    admin = add_account(app, member_of={tenant.slug: "admin"})
    add_rule(client, admin.headers(), surfaces=[SURFACE], reasons=["fraud"])
    return tenant


def events(client: FlaskClient, admin: Account) -> list[dict[str, Any]]:
    query = {"surface": "rules.over_budget"}
    answer = client.get("/admin/api/audits", headers=admin.headers(), query_string=query)
    items: list[dict[str, Any]] = answer.get_json()["items"]
    return items


def shown(client: FlaskClient, engineer: Account, tenant: MadeTenant) -> int:
    headers = engineer.headers("global", INCIDENT)
    return len(names(client, headers, tenant=tenant.slug))


@pytest.mark.usefixtures("_without_budget", "large")
def test_tenant_over_the_budget_is_excluded_and_others_are_not(
    client: FlaskClient, engineer: Account, tenant: MadeTenant, modest: MadeTenant
) -> None:
    assert [shown(client, engineer, each) for each in (tenant, modest)] == [0, 1]


@pytest.mark.usefixtures("_without_budget")
def test_access_to_a_tenant_over_the_budget_is_denied(
    client: FlaskClient, engineer: Account, tenant: MadeTenant, large: list[dict[str, Any]]
) -> None:
    answer = client.get(PATH, headers=engineer.headers(f"tenant:{tenant.slug}", INCIDENT))
    assert problem(answer)[:2] == (403, "elevation_denied")
    assert answer.get_json(force=True)["rules"] == [rule["id"] for rule in large]


def test_tenant_within_the_budget_decides_by_its_rules(
    client: FlaskClient, engineer: Account, tenant: MadeTenant, large: list[dict[str, Any]]
) -> None:
    assert shown(client, engineer, tenant) == len(large)


@pytest.mark.usefixtures("_without_budget", "worker")
def test_admin_of_a_tenant_over_the_budget_sees_one_event_that_names_its_rules(
    client: FlaskClient,
    admin: Account,
    outsider: Account,
    engineer: Account,
    tenant: MadeTenant,
    large: list[dict[str, Any]],
) -> None:
    for scope in ("global", "global", f"tenant:{tenant.slug}"):
        client.get(PATH, headers=engineer.headers(scope, INCIDENT))
    patch(client, admin, large[0], description="changed")
    client.get(PATH, headers=engineer.headers("global", INCIDENT))
    wait_for(lambda: events(client, admin) != [])
    (event,) = events(client, admin)
    assert (event["kind"], event["outcome"], event["rows"]) == ("change", "denied", RULES)
    assert event["actor"]["email"] == "sightline"
    assert event["scope"]["tenant"] == tenant.slug
    assert event["request"]["path"] == SURFACE
    assert sorted(event["decision"]["rule_ids"]) == sorted(rule["id"] for rule in large)
    assert events(client, outsider) == []


def test_change_by_one_tenant_prepares_no_other_tenants_rules(
    app: Flask, client: FlaskClient, engineer: Account, admin: Account, tenant: MadeTenant
) -> None:
    """The large tenant stands alone, so a change by another one does not touch it."""
    users = [f"{number}@example.org" for number in range(20)]
    fields: dict[str, Any] = {"reasons": ["fraud"], "subjects": {"users": users}}
    giant = add_tenant(app)
    giants = add_account(app, member_of={giant.slug: "admin"})
    add_rule(client, giants.headers(), surfaces=[SURFACE], **fields)
    assert shown(client, engineer, giant) == 1
    prepared: list[str | None] = []
    unpatched = evaluate._prepare

    def note(drafts: list[Any]) -> evaluate.RuleSet:
        prepared.extend(draft.candidate.rule.tenant for draft in drafts)
        return unpatched(drafts)

    with mock.patch.object(evaluate, "_prepare", note):
        add_rule(client, admin.headers(), surfaces=[SURFACE], reasons=["incident"])
        assert shown(client, engineer, tenant) == 0
    assert tenant.slug in prepared
    assert giant.slug not in prepared


def test_change_counts_where_a_thread_prepares_rules_in_the_background(
    app: Flask, client: FlaskClient, engineer: Account, admin: Account, tenant: MadeTenant
) -> None:
    """The thread prepares what the next access then finds."""
    add_rule(client, admin.headers(), "seen", effect="allow")
    assert shown(client, engineer, tenant) == 1
    client.post(PATH, headers=admin.headers(), json=draft("no", surfaces=["admin.*"]))
    with app.app_context():
        rule_sets.prepare_recently_read()
    with mock.patch.object(evaluate, "_prepare", side_effect=AssertionError):
        assert shown(client, engineer, tenant) == 0


def test_tenants_that_an_access_had_no_time_to_prepare_are_shown_by_a_later_one(
    app: Flask, client: FlaskClient, engineer: Account, modest: MadeTenant
) -> None:
    """No rule has changed in between. What is not prepared yet is not kept as current."""
    forget(app)
    with mock.patch.object(rule_sets, "PATIENCE", -1.0):
        assert shown(client, engineer, modest) == 0
    assert shown(client, engineer, modest) == 1


def test_thread_prepares_nothing_for_a_surface_that_was_not_read_lately(
    app: Flask, client: FlaskClient, engineer: Account, admin: Account, tenant: MadeTenant
) -> None:
    shown(client, engineer, tenant)
    add_rule(client, admin.headers(), "no", surfaces=["admin.*"])
    with (
        app.app_context(),
        mock.patch.object(rule_sets, "KEEP", 0.0),
        mock.patch.object(evaluate, "_prepare", side_effect=AssertionError),
    ):
        rule_sets.prepare_recently_read()
    assert shown(client, engineer, tenant) == 0
