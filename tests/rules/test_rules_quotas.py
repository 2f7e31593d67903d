"""Quotas of a tenant: over HTTP, for imports, side by side, and for what is above them already."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import Run
from tests.factories import INCIDENT, Account, MadeTenant
from tests.operators import WHY
from tests.rules.calls import PATH, add_rule, delete, draft, names, patch, problem
from webapp.db.scopes import TenantScope
from webapp.extensions import db
from webapp.rules import quotas
from webapp.rules.quotas import Usage, read_usage, within_quotas
from webapp.rules.rule import count_conditions
from webapp.rules.schemas import MAX_ENTRIES, RuleSchema

FEW = Usage(rules=3, conditions=8)
WINDOW = {"days": ["mon"], "from": "09:00", "to": "17:00", "tz": "UTC"}
LISTS: dict[str, Any] = {
    "surfaces": "admin.*",
    "reasons": "incident",
    "windows": WINDOW,
    "networks": "192.0.2.0/24",
    "approver_roles": "admin",
    "roles": "support",
    "users": "sue@example.org",
}


@pytest.fixture(autouse=True)
def _few() -> Iterator[None]:
    with mock.patch.object(quotas, "LIMITS", FEW):
        yield


def surfaces(count: int) -> list[str]:
    return [f"shop.part_{number}" for number in range(count)]


def refused(answer: Any) -> str:
    """The detail of an answer that a quota refused."""
    assert problem(answer) == (409, "conflict", ["rule"])
    detail: str = answer.get_json(force=True)["detail"]
    return detail


def test_rule_above_the_quota_of_rules_is_refused_and_a_deleted_one_makes_room(
    client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    rules = [add_rule(client, admin.headers(), name) for name in ("a", "b", "c")]
    one_more = client.post(PATH, headers=admin.headers(), json=draft("d", enabled=False))
    assert refused(one_more) == "A tenant may have 3 rules. This tenant would have 4."
    assert names(client, admin.headers()) == ["a", "b", "c"]
    delete(client, admin, rules[0])
    add_rule(client, admin.headers(), "d")


def test_conditions_above_the_quota_are_refused_in_new_and_in_changed_rules(
    client: FlaskClient, admin: Account
) -> None:
    rule = add_rule(client, admin.headers(), "a", surfaces=surfaces(5))
    new = client.post(PATH, headers=admin.headers(), json=draft("b", surfaces=surfaces(4)))
    changed = patch(client, admin, rule, surfaces=surfaces(9))
    for answer in (new, changed):
        expected = (
            "A tenant may have 8 entries in the lists of its rules. This tenant would have 9."
        )
        assert refused(answer) == expected
    assert patch(client, admin, rule, surfaces=surfaces(8)).status_code == 200


def test_quotas_hold_for_one_tenant_alone(
    client: FlaskClient, admin: Account, outsider: Account, owner: Account
) -> None:
    for account in (admin, outsider):
        for name in ("a", "b", "c"):
            add_rule(client, account.headers(), name)
    for _ in range(FEW.rules + 1):
        headers = owner.headers("global", INCIDENT)
        add_rule(client, headers, str(uuid4()), surfaces=["shop.platform"])


def test_owner_who_writes_for_a_tenant_is_bound_by_its_quotas(
    client: FlaskClient, tenant: MadeTenant, owner: Account
) -> None:
    for scope in ("global", f"tenant:{tenant.slug}"):
        headers = owner.headers(scope, INCIDENT)
        body = draft(surfaces=surfaces(9), tenant=tenant.slug)
        refused(client.post(PATH, headers=headers, json=body))


def test_tenant_above_a_quota_keeps_its_rules_and_may_change_them_without_adding(
    client: FlaskClient, admin: Account, engineer: Account, tenant: MadeTenant
) -> None:
    with mock.patch.object(quotas, "LIMITS", Usage(100, 100)):
        add_rule(client, admin.headers(), "no", surfaces=["admin.*"])
        rules = [add_rule(client, admin.headers(), name, surfaces=surfaces(4)) for name in "abcd"]
    elevated = engineer.headers(f"tenant:{tenant.slug}", INCIDENT)
    assert problem(client.get(PATH, headers=elevated))[:2] == (403, "elevation_denied")
    first = patch(client, admin, rules[0], enabled=False)
    assert first.status_code == 200
    assert patch(client, admin, rules[1], surfaces=surfaces(3)).status_code == 200
    assert "would have 17" in refused(patch(client, admin, rules[2], surfaces=surfaces(5)))
    assert "would have 6" in refused(client.post(PATH, headers=admin.headers(), json=draft("e")))
    assert delete(client, admin, rules[3]).status_code == 204


def test_rules_added_at_the_same_time_do_not_exceed_a_quota(
    app: Flask, client: FlaskClient, admin: Account
) -> None:
    def add(number: int) -> int:
        body = draft(f"rule {number}")
        return app.test_client().post(PATH, headers=admin.headers(), json=body).status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = Counter(threads.map(add, range(8)))
    assert statuses == {201: FEW.rules, 409: 8 - FEW.rules}
    assert len(names(client, admin.headers())) == FEW.rules


def test_import_above_a_quota_is_refused_whole_and_names_the_tenant(
    client: FlaskClient, run: Run, tenant: MadeTenant, admin: Account, tmp_path: Path
) -> None:
    file = tmp_path / "rules.yaml"
    rules = [draft(name) for name in ("a", "b", "c", "d")]
    file.write_text(yaml.safe_dump({"tenants": {tenant.slug: rules}}))
    result = run("rules", "import", *WHY, str(file))
    assert result.exit_code == 1
    expected = f"tenants.{tenant.slug}: A tenant may have 3 rules. This tenant would have 4."
    assert expected in result.stderr
    assert names(client, admin.headers()) == []


def test_import_that_replaces_all_rules_is_counted_as_a_whole(
    client: FlaskClient, run: Run, tenant: MadeTenant, admin: Account, tmp_path: Path
) -> None:
    """Before the old rules are deleted there are more than the quota admits."""
    for name in ("a", "b", "c"):
        add_rule(client, admin.headers(), name, surfaces=surfaces(2))
    file = tmp_path / "rules.yaml"
    rules = [draft(name, surfaces=surfaces(2)) for name in ("d", "e", "f")]
    file.write_text(yaml.safe_dump({"tenants": {tenant.slug: rules}}))
    assert run("rules", "import", *WHY, str(file), "--prune").exit_code == 0
    assert names(client, admin.headers()) == ["d", "e", "f"]


def too_long(field: str) -> dict[str, Any]:
    entries = [LISTS[field]] * (MAX_ENTRIES + 1)
    return {"subjects": {field: entries}} if field in ("roles", "users") else {field: entries}


@pytest.mark.parametrize("field", LISTS)
def test_list_with_more_than_twenty_entries_is_refused(
    client: FlaskClient, run: Run, admin: Account, field: str, tmp_path: Path
) -> None:
    body = draft("long") | too_long(field)
    path = f"subjects.{field}" if field in ("roles", "users") else field
    created = client.post(PATH, headers=admin.headers(), json=body)
    assert problem(created) == (422, "invalid", [path])
    simulated = client.post(f"{PATH}/simulate", headers=admin.headers(), json={"rule": body})
    assert problem(simulated) == (422, "invalid", [f"rule.{path}"])
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"platform": [body]}))
    assert f"platform[0].{path}: " in run("rules", "import", *WHY, str(file)).stderr


@pytest.mark.parametrize("field", LISTS)
def test_list_with_twenty_entries_is_accepted(
    client: FlaskClient, admin: Account, field: str
) -> None:
    changes = too_long(field)
    lists = changes.get("subjects", changes)
    lists[field] = lists[field][:MAX_ENTRIES]
    with mock.patch.object(quotas, "LIMITS", Usage(1, 100)):
        add_rule(client, admin.headers(), **changes)


def test_database_counts_the_same_conditions_as_the_engine(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    with mock.patch.object(quotas, "LIMITS", Usage(9, 99)):
        rule = add_rule(
            client,
            admin.headers(),
            subjects={"roles": ["support", "engineer"], "users": ["sue@example.org"]},
            surfaces=surfaces(3),
            reasons=["incident", "fraud"],
            windows=[WINDOW] * 4,
            networks=["10.0.0.0/8"] * 5,
        )
    made = RuleSchema().load(rule)
    with app.app_context(), db.scoped(TenantScope(tenant.id)):
        assert read_usage(tenant.id) == Usage(1, count_conditions(made)) == Usage(1, 17)


def test_quotas_are_checked_again_after_a_block_that_failed(
    app: Flask, client: FlaskClient, tenant: MadeTenant
) -> None:
    """A tenant whose outer block has ended by an error is no longer taken for checked."""
    with app.app_context(), db.scoped(TenantScope(tenant.id)):
        with pytest.raises(ZeroDivisionError), within_quotas(tenant.id):
            raise ZeroDivisionError
        assert db.session.info[quotas._CHANGING] == set()
