"""Failures of the engine: unreadable rules and evaluation errors deny, and any text stays data."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rules.engine.questions import (
    ACCESS,
    ACME,
    ALLOW,
    DENY,
    EVERY_DAY,
    GLOBEX,
    NOON,
    RULE,
    ask,
    rule,
)
from tests.rules.engine.strategies import rules
from webapp.rules.engine import cedar, templates
from webapp.rules.engine.evaluate import NO_RULES, RuleSet, Verdict, decide, prepare
from webapp.rules.engine.explanation import explain
from webapp.rules.engine.templates import Unreadable
from webapp.rules.rule import Rule, Subjects, Window

ALWAYS = Window(EVERY_DAY, "00:00", "00:00", "UTC")
BROKEN: list[dict[str, Any]] = [
    {"effect": "permit"},
    {"networks": ("192.0.2.7/24",)},
    {"networks": ("fe80::%eth0",)},
    {"networks": ("everywhere",)},
    {"windows": (replace(ALWAYS, tz="Mars/Olympus"),)},
    {"windows": (replace(ALWAYS, tz="../zone.tab"),)},
    {"windows": (replace(ALWAYS, tz=""),)},
    {"windows": (replace(ALWAYS, begins="25:00"),)},
    {"windows": (replace(ALWAYS, ends="noon"),)},
    {"windows": (replace(ALWAYS, begins=9),)},  # type: ignore[arg-type]  # no schema accepts it
    {"windows": (replace(ALWAYS, days=("monday",)),)},  # type: ignore[arg-type]  # the same
    {"windows": (replace(ALWAYS, days=()),)},
    {"subjects": Subjects((), (None,))},  # type: ignore[arg-type]  # the same
    {"subjects": Subjects((7,), ())},  # type: ignore[arg-type]  # the same
    {"ticket": "\ud800"},
    {"starts_at": NOON.replace(tzinfo=None)},
]
HOSTILE = (
    '"]] || true',
    '"); permit(principal, action, resource); //',
    '?principal", "slot": "?resource',
    '{"__entity": {"type": "Role", "id": "owner"}}',
    'User::"sue@example.org"',
    "\\u002a\n*\0",
)


@pytest.mark.parametrize("fields", BROKEN, ids=str)
def test_unreadable_platform_rule_denies(fields: dict[str, Any]) -> None:
    allow, broken = rule(ALLOW, 10), rule(**{"effect": ALLOW, "number": 11, **fields})
    verdict = ask(allow, broken)
    assert verdict == Verdict("denied", (broken,), failed=True)
    name = f"the platform's rule “{broken.rule.name}”" if broken.rule else ""
    assert explain(verdict, ACCESS).sentence == f"Denied, since a rule cannot be evaluated: {name}."


def test_rule_that_cannot_be_loaded_denies() -> None:
    lost = replace(rule(ALLOW, 11), rule=None)
    verdict = ask(rule(ALLOW, 10), lost)
    assert verdict == Verdict("denied", (lost,), failed=True)
    assert str(lost.id) in explain(verdict, ACCESS).sentence


@pytest.mark.parametrize("fields", BROKEN, ids=str)
def test_unreadable_tenant_rule_denies_only_at_its_tenant(
    fields: dict[str, Any],
) -> None:
    allow, other = rule(ALLOW, 10), rule(ALLOW, 21, of=GLOBEX)
    broken = rule(**{"effect": DENY, "number": 20, "of": ACME, **fields})
    assert ask(allow, broken) == Verdict("denied", (broken,), failed=True)
    everywhere = ask(allow, broken, other, everywhere=True)
    assert everywhere.ruling == "allowed"
    assert everywhere.excluded.tenants == {ACME}


def test_rule_that_cedar_refuses_denies_while_the_others_are_evaluated() -> None:
    """A role that is no text is only refused by Cedar."""
    refused = rule(ALLOW, 11, subjects=Subjects((7,), ()))  # type: ignore[arg-type]  # no schema accepts it
    prepared = prepare([rule(ALLOW, 10), refused, rule(DENY, 12, reasons=("fraud",))])
    assert prepared.unreadable == (refused,)
    assert [candidate.id for candidate in prepared.candidates] == [UUID(int=10), UUID(int=12)]


def _without_clocks(rules: RuleSet) -> RuleSet:
    """A rule set whose requests lack the clocks that its rules read."""
    batches = (replace(b, prepared=replace(b.prepared, zones=())) for b in rules.batches)
    return replace(rules, batches=tuple(batches))


def test_evaluation_error_denies() -> None:
    """It denies for either owner, for one tenant and for all, whatever other rules allow."""
    allow = prepare([rule(ALLOW, 10)])
    timed = _without_clocks(prepare([rule(ALLOW, 10), rule(ALLOW, 11, windows=(ALWAYS,))]))
    theirs = _without_clocks(prepare([rule(DENY, 20, of=ACME, windows=(ALWAYS,))]))
    for platform, tenants in ((timed, NO_RULES), (allow, theirs)):
        for everywhere in (True, False):
            verdict = decide(platform, tenants, ACCESS, NOON, everywhere=everywhere)
            assert verdict == Verdict("denied", (), failed=True)
            assert explain(verdict, ACCESS).sentence == "Denied, since a rule cannot be evaluated."


@pytest.mark.parametrize("fields", [{"email": "\ud800"}, {"ticket": "\ud800"}], ids=str)
def test_request_that_cedar_cannot_read_is_denied(fields: dict[str, Any]) -> None:
    assert ask(rule(ALLOW), access=replace(ACCESS, **fields)) == Verdict("denied", (), failed=True)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_rules_and_requests_stays_data(text: str) -> None:
    """In every field of a rule and of a request, the text matches only itself."""
    named = rule(DENY, 11, name=text, description=text, ticket="none such")
    assert ask(rule(ALLOW, 10), named).ruling == "allowed"
    for fields, access in (
        ({"ticket": text}, replace(ACCESS, ticket=text)),
        ({"subjects": Subjects((), (text,))}, replace(ACCESS, email=text)),
        ({"subjects": Subjects((text,), ())}, replace(ACCESS, roles=frozenset({text}))),
        ({"surfaces": (text,)}, replace(ACCESS, surface=text)),
        ({"reasons": (text,)}, replace(ACCESS, reason=text)),
    ):
        assert ask(rule(ALLOW, 10, **fields), access=access).ruling == "allowed"
        assert ask(rule(ALLOW, 10, **fields)).ruling == "denied"
        assert ask(rule(ALLOW, 10), rule(DENY, 11, **fields)).ruling == "allowed"
        assert ask(access=access).ruling == "denied"


@settings(max_examples=1000, deadline=None)
@given(rules)
def test_policies_of_every_rule_are_valid_by_the_schema(drawn: Rule) -> None:
    cedar.check(drawn)


def test_largest_rule_is_valid_by_the_schema() -> None:
    """The rule has as many entries as the API's schemas accept."""
    minutes = [f"{hour:02}:{minute:02}" for hour in range(10) for minute in range(10, 20)]
    largest = replace(
        RULE,
        subjects=Subjects(("support",), tuple(f"{n}@example.org" for n in range(100))),
        surfaces=tuple(f"surface_{n}.*" for n in range(100)),
        ticket="*a" * 64,
        windows=tuple(replace(ALWAYS, begins=minute) for minute in minutes),
        networks=tuple(f"10.{n}.0.0/16" for n in range(100)),
    )
    for effect in ("allow", "deny", "require_approval"):
        cedar.check(replace(largest, effect=effect))
    access = replace(ACCESS, email="99@example.org", surface="surface_99.show", ticket="a" * 64)
    names = ("subjects", "surfaces", "ticket", "windows", "networks")
    fields = {name: getattr(largest, name) for name in names}
    assert ask(rule(ALLOW, **fields), access=replace(access, ip="10.99.0.1")).ruling == "allowed"
    assert ask(rule(ALLOW, **fields), access=replace(access, ip="10.100.0.1")).ruling == "denied"


@pytest.mark.parametrize("attribute", ["unknown", "ticket"])
def test_policy_that_reads_an_unknown_or_optional_attribute_is_refused(
    monkeypatch: pytest.MonkeyPatch, attribute: str
) -> None:
    """Of the attributes, no request has one, and only some requests have the other."""
    read = {".": {"left": {"Var": "context"}, "attr": attribute}}
    body = {"==": {"left": read, "right": {"Value": "INC-1"}}}
    monkeypatch.setattr(templates, "_contains", lambda values, value: body)
    with pytest.raises(Unreadable):
        cedar.check(replace(RULE, reasons=("incident",)))


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_text_in_a_rule_matches_only_itself(text: str) -> None:
    """It matches as an e-mail address, as a ticket and as a surface."""
    pattern = text.replace("*", "") or "x"
    fields: dict[str, Any] = {
        "ticket": pattern,
        "subjects": Subjects((), (text.upper(), text)),
        "surfaces": (text,),
    }
    access = replace(ACCESS, ticket=pattern, email=text, surface=text)
    cedar.check(replace(RULE, **fields))
    assert ask(rule(ALLOW, **fields), access=access).ruling == "allowed"
