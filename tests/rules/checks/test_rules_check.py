"""`flask rules check`: each finding is true, and rules without a problem are left alone."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from tests.applications import application_of
from tests.audit.events import make_event
from tests.audit.ledgers import append_events, owner_connection
from tests.factories import Account, MadeTenant
from tests.operators import WHY
from tests.rules.calls import add_rule
from tests.rules.engine.questions import ACCESS, NOON, RULE
from tests.rules.engine.reference import says
from tests.rules.engine.strategies import Question, candidates, questions
from webapp.audit.event import EventScope, Reason
from webapp.rules.checks import service
from webapp.rules.checks.findings import (
    RuleFinding,
    find_above_quota,
    find_contradictory,
    find_unreachable,
    is_readable,
)
from webapp.rules.checks.service import find_matched
from webapp.rules.engine.evaluate import Candidate
from webapp.rules.quotas import Usage
from webapp.rules.rule import Rule, Subjects, Window
from webapp.rules.simulation.history import PastAccess

NIGHT = {"days": ["mon"], "from": "22:00", "to": "06:00", "tz": "UTC"}
NIGHTS = Window(("mon", "tue"), "22:00", "06:00", "UTC")

thoroughly = settings(
    max_examples=1500,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def rule(number: int, effect: str = "deny", **fields: Any) -> Rule:
    return replace(RULE, **{"id": UUID(int=number), "effect": effect, **fields})


def unreachable(*rules: Rule) -> list[int]:
    return numbers(find_unreachable(rules, NOON))


def numbers(findings: Iterable[RuleFinding]) -> list[int]:
    return [finding.rule_id.int for finding in findings if finding.rule_id]


@pytest.mark.slow
@thoroughly
@given(candidates([None], 1), st.lists(questions, min_size=1, max_size=6))
def test_rule_found_unreachable_changes_no_access(
    drawn: list[Candidate], asked: list[Question]
) -> None:
    rules = [
        replace(c.rule, starts_at=None, ends_at=None)
        for c in drawn
        if c.rule and c.rule.enabled and is_readable(c.rule)
    ]
    if rules:
        rules[0] = replace(rules[0], effect="deny")
    idle = {finding.rule_id for finding in find_unreachable(rules, NOON)}
    event(f"{len(idle)} unreachable")
    for rule in (rule for rule in rules if rule.id in idle):
        for question in asked:
            effects = [says(r, question.access, question.at) for r in rules if r.id != rule.id]
            assert says(rule, question.access, question.at) is None or "deny" in effects


@pytest.mark.parametrize(
    ("deny", "hidden"),
    [
        ({}, {}),
        ({}, {"reasons": ("incident",), "ticket": "INC-*", "mfa": True}),
        ({"surfaces": ("admin.*",)}, {"surfaces": ("admin.rules.*", "admin.x")}),
        ({"subjects": Subjects(("support",), ("A@b.c",))}, {"subjects": Subjects((), ("a@B.c",))}),
        ({"ticket": "INC-*"}, {"ticket": "INC-*-1"}),
        ({"networks": ("10.0.0.0/8",)}, {"networks": ("10.1.0.0/16", "::ffff:10.2.0.0/112")}),
        ({"windows": (NIGHTS,)}, {"windows": (replace(NIGHTS, days=("tue",)),)}),
        ({"reasons": ("incident", "support_case")}, {"reasons": ("incident",)}),
        ({"ends_at": NOON + timedelta(2)}, {"ends_at": NOON + timedelta(1)}),
        ({"starts_at": NOON - timedelta(1)}, {}),
    ],
)
def test_rule_covered_by_a_denial_is_unreachable(
    deny: dict[str, Any], hidden: dict[str, Any]
) -> None:
    assert unreachable(rule(1, **deny), rule(2, "allow", **hidden)) == [2]


@pytest.mark.parametrize(
    ("deny", "seen"),
    [
        ({"mfa": True}, {}),
        ({"surfaces": ("admin.*",)}, {"surfaces": ("admin.rules.*", "billing")}),
        ({"subjects": Subjects(("support",), ())}, {}),
        ({"subjects": Subjects(("support",), ())}, {"subjects": Subjects(("support",), ("a",))}),
        ({"reasons": ("incident",)}, {}),
        ({"ticket": "*"}, {}),
        ({"ticket": "INC-1"}, {"ticket": "INC-*"}),
        ({"networks": ("10.0.0.0/8",)}, {}),
        ({"networks": ("10.0.0.0/8",)}, {"networks": ("10.0.0.0/8", "11.0.0.0/8")}),
        ({"windows": (NIGHTS,)}, {}),
        ({"windows": (NIGHTS,)}, {"windows": (replace(NIGHTS, tz="Europe/Berlin"),)}),
        ({"ends_at": NOON + timedelta(1)}, {}),
        ({"starts_at": NOON + timedelta(1)}, {}),
        ({"tenant": "acme"}, {}),
    ],
)
def test_rule_only_partly_covered_by_a_denial_is_reachable(
    deny: dict[str, Any], seen: dict[str, Any]
) -> None:
    assert unreachable(rule(1, **deny), rule(2, "allow", **seen)) == []


def test_later_of_two_equal_denials_is_unreachable() -> None:
    assert unreachable(rule(1), rule(2)) == [2]
    assert unreachable(rule(2), rule(1)) == [2]


def test_ended_rules_and_tenants_allow_rules_are_unreachable() -> None:
    over, tenants = rule(1, ends_at=NOON), rule(2, "allow", tenant="acme")
    assert unreachable(over, tenants, rule(3, "allow", ends_at=NOON + timedelta(1))) == [1, 2]


def test_rules_with_equal_conditions_and_different_effects_are_contradictory() -> None:
    users = Subjects(("support", "owner"), ("A@b.c",))
    same = Subjects(("owner", "support"), ("a@B.c",))
    first = rule(1, "allow", subjects=users)
    second = rule(2, "require_approval", subjects=same)
    other, tenants = rule(3, "deny", reasons=("fraud",)), rule(4, "deny", tenant="acme")
    found = list(
        find_contradictory([first, second, other, tenants, replace(first, id=UUID(int=5))])
    )
    assert numbers(found) == [2]
    assert str(first.id) in found[0].detail


def matched(rules: Sequence[Candidate], *accesses: PastAccess) -> set[int]:
    return {rule_id.int for rule_id in find_matched(rules, accesses)}


def test_rule_is_matched_by_an_access_whatever_was_decided() -> None:
    rules = [Candidate(UUID(int=n), None, rule(n, e)) for n, e in enumerate(_EFFECTS)]
    access = PastAccess(UUID(int=9), NOON, ACCESS, True, None, approved=False)
    assert matched(rules, access) == {0, 1, 2}
    night = Candidate(UUID(int=7), None, rule(7, windows=(NIGHTS,)))
    assert matched([night], access) == set()
    assert matched([night], access, replace(access, at=datetime(2026, 11, 24, 23, tzinfo=UTC))) == {
        7
    }


_EFFECTS = ("deny", "require_approval", "allow")


def test_tenant_rule_is_matched_only_by_accesses_to_its_tenant() -> None:
    acme, globex = UUID(int=1), UUID(int=2)
    theirs = [Candidate(UUID(int=3), acme, rule(3, tenant="acme"))]
    access = PastAccess(UUID(int=9), NOON, ACCESS, False, globex, approved=False)
    assert matched(theirs, access) == set()
    assert matched(theirs, access, replace(access, tenant_id=acme)) == {3}
    assert matched(theirs, replace(access, tenant_id=None, everywhere=True)) == {3}


def _check(app: Flask, tenant: MadeTenant, *options: str) -> tuple[int, dict[str, str]]:
    """The exit code, and the problems of a tenant's rules by name."""
    result = app.test_cli_runner().invoke(args=["rules", "check", "--json", *options, *WHY])
    assert result.stderr == ""
    items = json.loads(result.stdout)["items"]
    own = [item for item in items if item["tenant"] == tenant.slug]
    return result.exit_code, {item["name"]: item["problem"] for item in own}


def test_rules_check_names_each_finding(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    surface = f"s{uuid4().hex}.list"
    headers = admin.headers()
    drafts: dict[str, dict[str, Any]] = {
        "met": {"surfaces": [surface], "subjects": {"roles": ["engineer"]}},
        "not met": {"surfaces": [surface], "subjects": {"roles": ["support"]}},
        "allows": {"effect": "allow"},
        "one": {"surfaces": ["x"], "effect": "deny"},
        "other": {"surfaces": ["x"], "effect": "require_approval"},
        "off": {"surfaces": ["x"], "effect": "allow", "enabled": False},
    }
    for name, fields in drafts.items():
        add_rule(client, headers, name, **fields)
    there = EventScope(kind="tenant", tenant=tenant.slug, tenant_id=tenant.id)
    past = datetime.now(UTC) - timedelta(days=3)
    append_events(app, make_event(surface=surface, scope=there, occurred_at=past))

    code, found = _check(app, tenant)
    assert code == 1
    assert found == {
        "not met": "never_matched",
        "allows": "unreachable",
        "one": "never_matched",
        "other": "contradictory",
    }
    assert _check(app, tenant, "--days", "2")[1]["met"] == "never_matched"
    table = app.test_cli_runner().invoke(args=["rules", "check", *WHY])
    assert table.exit_code == 1
    assert "contradictory" in table.stdout


def test_rules_check_names_unreadable_rules(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    rules = {name: add_rule(client, admin.headers(), name)["id"] for name in ("zone", "shape")}
    nowhere = [{**NIGHT, "tz": "Mars/Olympus"}]
    with _stored(app, rules["zone"], nowhere), _stored(app, rules["shape"], [{"days": ["mon"]}]):
        result = app.test_cli_runner().invoke(args=["rules", "check", "--json", *WHY])
        found = {i["rule_id"]: i["problem"] for i in json.loads(result.stdout)["items"]}
        assert {found.get(rule_id) for rule_id in rules.values()} == {"unreadable"}
        refused = app.test_cli_runner().invoke(args=["rules", "export", *WHY])
        assert refused.exit_code == 1
        assert rules["shape"] in refused.stderr


@contextmanager
def _stored(app: Flask, rule_id: str, windows: list[dict[str, Any]]) -> Iterator[None]:
    """Store windows that no schema has checked, until the block ends."""
    _store(app, rule_id, windows)
    try:
        yield
    finally:
        _store(app, rule_id, [])


def _store(app: Flask, rule_id: str, windows: list[dict[str, Any]]) -> None:
    change = "update rules set windows = cast(:windows as jsonb) where id = cast(:id as uuid)"
    with owner_connection(app) as owner:
        owner.execute(text("alter table rules no force row level security"))
        owner.execute(text(change), {"windows": json.dumps(windows), "id": rule_id})
        owner.execute(text("alter table rules force row level security"))


def test_access_without_a_reason_matches_no_rule(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    surface = f"s{uuid4().hex}.list"
    add_rule(client, admin.headers(), "any", surfaces=[surface])
    there = EventScope(kind="tenant", tenant=tenant.slug, tenant_id=tenant.id)
    append_events(app, make_event(surface=surface, scope=there, reason=None, kind="change"))
    assert _check(app, tenant)[1] == {"any": "never_matched"}
    reason = Reason(code="fraud", ticket=None, note=None)
    append_events(app, make_event(surface=surface, scope=there, reason=reason, kind="change"))
    assert _check(app, tenant)[1] == {}


@pytest.mark.parametrize("proxies", [None, 0, 1])
def test_rules_check_reports_networks_until_trusted_proxies_is_set(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    proxies: int | None,
) -> None:
    add_rule(client, admin.headers(), "from the office", networks=["10.20.0.0/16"])
    add_rule(client, admin.headers(), "from anywhere")
    with application_of(replace(app.extensions["settings"], trusted_proxies=proxies)) as made:
        result = made.test_cli_runner().invoke(args=["rules", "check", "--json", *WHY])
    found = [i for i in json.loads(result.stdout)["items"] if i["problem"] == "connecting_address"]
    if proxies is not None:
        assert found == []
        return
    (finding,) = found
    assert result.exit_code == 1
    assert finding["rule_id"] is finding["tenant"] is finding["name"] is None
    assert "networks, but TRUSTED_PROXIES is not set" in finding["detail"]


def test_tenant_above_a_quota_is_found_and_the_platform_is_not() -> None:
    few = [rule(number, tenant="acme") for number in range(2)]
    many = [rule(number, tenant="globex") for number in range(3)]
    long = [rule(1, tenant="initech", surfaces=("a", "b", "c", "d", "e"))]
    platform = [rule(number) for number in range(9)]
    found = list(find_above_quota([*few, *many, *long, *platform], 2, 4))
    assert [(f.problem, f.tenant) for f in found] == [
        ("above_quota", "globex"),
        ("above_quota", "initech"),
    ]
    assert "3 rules with 3 entries" in found[0].detail


def test_rules_check_finds_a_tenant_above_a_quota(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    for name in ("a", "b"):
        add_rule(client, admin.headers(), name)
    with mock.patch.object(service, "LIMITS", Usage(1, 100)):
        result = app.test_cli_runner().invoke(args=["rules", "check", "--json", *WHY])
    found = [item for item in json.loads(result.stdout)["items"] if item["tenant"] == tenant.slug]
    assert "above_quota" in {item["problem"] for item in found}
