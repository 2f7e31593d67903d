"""`flask rules export --format cedar`: Cedar alone decides by the export as the engine does."""

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import cedarpy
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.factories import Account, MadeTenant
from tests.operators import WHY
from tests.rules.calls import add_rule
from tests.rules.engine.questions import RULE
from tests.rules.engine.strategies import Question, candidates, questions
from tests.rules.test_rules_changes import FULL
from webapp.http.addresses import address
from webapp.rules.checks.findings import is_readable
from webapp.rules.engine import cedar
from webapp.rules.engine.evaluate import Candidate, prepare
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.engine.templates import microseconds
from webapp.rules.files.cedar_text import entities_text, policies_text
from webapp.rules.rule import Rule, surfaces_covering

NASTY = 'we"ird */ \n// \u2028 \\ forbid(principal, action, resource);'

NASTY_LINE = 'we"ird */ // \\ forbid(principal, action, resource);'
"""What of it somebody can name a rule today."""

DecidingParts = set[tuple[str, str]]
"""Ids of rules, and the part of each that decided."""


def _ask(
    text: str, entities: str, question: Question, zones: set[str], **state: bool
) -> DecidingParts:
    """Ask Cedar, with nothing but the exported text."""
    access = question.access
    request = {
        "principal": {"type": "Principal", "id": "somebody"},
        "action": {"type": "Action", "id": "access"},
        "resource": {"type": "Surface", "id": access.surface},
        "context": _context(access, question, **state),
    }
    present = [
        _entity(
            "Principal",
            "somebody",
            [("Everyone", "everyone"), ("User", access.email.lower())]
            + [("Role", role) for role in access.roles],
        ),
        _entity(
            "Surface", access.surface, [("Pattern", p) for p in surfaces_covering(access.surface)]
        ),
        *(
            {**_entity("Clock", zone, []), "attrs": cedar.clock(zone, question.at)}
            for zone in zones
        ),
    ]
    every = json.dumps(json.loads(entities) + present)
    result = cedarpy.is_authorized(request, text, every, schema=cedar.SCHEMA_TEXT)
    assert result.diagnostics.errors == []
    policies = json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"]
    ids = [policies[name]["annotations"]["id"] for name in result.diagnostics.reasons]
    return {tuple(name.split(".")) for name in ids}


def _context(access: AuthorizationRequest, question: Question, **state: bool) -> dict[str, Any]:
    context: dict[str, Any] = {
        "reason": access.reason,
        "mfa": access.mfa,
        "at": microseconds(question.at),
        **state,
    }
    if access.ticket is not None:
        context["ticket"] = access.ticket
    if (ip := address(access.ip)) is not None:
        context["ip"] = {"__extn": {"fn": "ip", "arg": str(ip)}}
    return context


def _entity(kind: str, name: str, parents: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "uid": {"type": kind, "id": name},
        "attrs": {},
        "parents": [{"type": kind, "id": name} for kind, name in parents],
    }


@pytest.mark.slow
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(candidates([None], 1), st.lists(questions, min_size=1, max_size=3))
def test_exported_policies_decide_as_the_engine_does(
    drawn: list[Candidate], asked: list[Question]
) -> None:
    rules = [c.rule for c in drawn if c.rule is not None and is_readable(c.rule)]
    rules = [replace(rule, name=NASTY) for rule in rules]
    text, entities = policies_text(rules), entities_text(rules)
    zones = {window.tz for rule in rules for window in rule.windows}
    rule_set = prepare(Candidate(rule.id, None, rule) for rule in rules)
    for question in asked:
        for approved, granted in ((False, False), (True, False), (True, True)):
            evaluation = rule_set.evaluate(
                question.access, question.at, approved=approved, granted=granted
            )
            deciding = _ask(text, entities, question, zones, approved=approved, granted=granted)
            parts = {part: {UUID(i) for i, p in deciding if p == part} for _, part in deciding}
            assert parts.get("deny", set()) == {c.id for c in evaluation.denying}
            assert parts.get("approve", set()) == {c.id for c in evaluation.approving}
            assert parts.get("permit", set()) == {c.id for c in evaluation.allowing}
            event(", ".join(sorted(parts)) or "nothing")


def test_hostile_rule_name_stays_inside_its_annotation() -> None:
    text = policies_text([replace(RULE, name=NASTY)])
    (policy,) = json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"].values()
    assert policy["effect"] == "permit"
    assert policy["annotations"] == {
        "id": f"{RULE.id}.permit",
        "rule": str(RULE.id),
        "owner": "platform",
        "name": NASTY,
    }


def test_rule_that_requires_an_approval_is_exported_as_several_policies() -> None:
    rule = replace(RULE, effect="require_approval", mfa=True)
    policies = json.loads(cedarpy.policies_to_json_str(policies_text([rule])))["staticPolicies"]
    ids = [policy["annotations"]["id"] for policy in policies.values()]
    assert sorted(ids) == [f"{rule.id}.{part}" for part in ("approve", "deny", "permit")]


@pytest.mark.parametrize("fields", [{"enabled": False}, {"tenant": "acme"}])
def test_export_leaves_out_rules_that_have_no_effect(fields: dict[str, Any]) -> None:
    idle: Rule = replace(RULE, **fields)
    assert policies_text([idle]) == ""
    assert json.loads(entities_text([idle])) == []


def _export(app: Flask, *options: str) -> str:
    arguments = ["rules", "export", "--format", "cedar", *options, *WHY]
    result = app.test_cli_runner().invoke(args=arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_cedar_export_prints_policies_entities_and_schema(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    full = {name: value for name, value in FULL.items() if name != "name"}
    rule = add_rule(client, admin.headers(), NASTY_LINE, **(full | {"enabled": True}))
    add_rule(client, admin.headers(), "idle", effect="allow")
    policies = _export(app, "--tenant", tenant.slug)
    entities = json.loads(_export(app, "--tenant", tenant.slug, "--part", "entities"))
    schema = _export(app, "--part", "schema")

    assert cedarpy.validate_policies(policies, cedarpy.Schema.from_str(schema))
    exported = json.loads(cedarpy.policies_to_json_str(policies))["staticPolicies"].values()
    assert {policy["annotations"]["rule"] for policy in exported} == {rule["id"]}
    assert {policy["annotations"]["owner"] for policy in exported} == {f"tenant:{tenant.slug}"}
    roles = {e["uid"]["id"] for e in entities if e["uid"]["type"] == "Role"}
    assert roles == {"support", "engineer"}
    assert rule["id"] in _export(app)
    assert rule["id"] not in _export(app, "--platform")
