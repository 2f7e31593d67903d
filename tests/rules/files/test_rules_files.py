"""`flask rules export` and `import`: files read back as the same rules, and import as a whole."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import marshmallow as ma
import pytest
import yaml
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Run
from tests.factories import INCIDENT, Account, MadeTenant, add_tenant
from tests.operators import OPERATOR, WHY
from tests.rules.calls import PATH, add_rule, draft, names, of
from tests.rules.engine.questions import RULE
from tests.rules.engine.strategies import rules
from tests.rules.test_rules_changes import FULL
from webapp.http.schema import MapOf
from webapp.rules.files.format import (
    MAX_FILE,
    MAX_RULES,
    BadFile,
    read_draft,
    read_file,
    wire_of,
    wire_of_draft,
    write_file,
)
from webapp.rules.rule import Rule
from webapp.text import is_line

breaks = st.sampled_from(" :#'\"")
texts = st.text(
    breaks | st.characters(codec="utf-8").filter(is_line), min_size=1, max_size=40
).filter(is_line)


drafts = rules.map(lambda rule: replace(rule, ends_at=None))
"""Without an end, since the schemas refuse a rule that ends before it starts."""


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(drafts, texts, texts, st.sampled_from([None, "acme"])), max_size=4))
def test_written_rule_file_reads_back_as_the_same_rules(
    drawn: list[tuple[Rule, str, str, str | None]],
) -> None:
    by_key = {
        (tenant, name): replace(rule, name=name, description=text, tenant=tenant, ticket=name)
        for rule, name, text, tenant in drawn
    }
    written = write_file(by_key.values())
    read = read_file(written)
    assert {e.key: wire_of_draft(e.draft, e.tenant) for e in read.entries} == {
        key: wire_of(rule) for key, rule in by_key.items()
    }
    assert read.owners == {tenant for tenant, _ in by_key}
    assert write_file(reversed(by_key.values())) == written


def test_rule_file_leaves_out_fields_with_default_values() -> None:
    tenants = write_file([replace(RULE, tenant="acme", name="b"), replace(RULE, tenant="acme")])
    rule = {"effect": "allow", "surfaces": ["*"]}
    expected = {"tenants": {"acme": [{"name": "A rule", **rule}, {"name": "b", **rule}]}}
    assert yaml.safe_load(tenants) == expected


def test_times_in_a_rule_file_need_no_quotes() -> None:
    read = read_draft(
        "{name: a, effect: deny, surfaces: [x], starts_at: 2026-01-01T00:00:00Z,"
        " max_minutes: 90, windows: [{days: [mon], from: 09:00, to: 17:30, tz: UTC}]}"
    )
    assert (read["windows"][0].begins, read["windows"][0].ends) == ("09:00", "17:30")
    assert (read["starts_at"].year, read["max_minutes"]) == (2026, 90)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("platform: [{name: a, effect: alow, surfaces: [x, A b]}]", 2),
        ("platform: [{name: a, effect: deny, surfaces: [x], tenant: acme}]", 1),
        ("platform: [{name: a, effect: deny, surfaces: [x], mfa: maybe, oops: 1}]", 2),
        ("platform: 3", 1),
        ("[1]", 1),
        ("tenants: {Bad Slug: []}", 1),
        ("tenants: {1: []}", 1),
        ("a: &a [*a]", 1),
        ("platform: [", 1),
        ("platform: []\nplatform: []", 1),
        ("platform: [!!python/object:os.system x]", 1),
        ("platform: [&a {name: a, effect: deny, surfaces: [x]}, *a]", 1),
        (
            "platform: [{name: a, effect: deny, surfaces: [x], starts_at: 2026-01-02T00:00:00Z,"
            " ends_at: 2026-01-02T00:00:00Z}]",
            1,
        ),
    ],
)
def test_invalid_rule_file_is_refused_with_every_problem(text: str, problems: int) -> None:
    with pytest.raises(BadFile) as refused:
        read_file(text)
    assert len(refused.value.problems) == problems


def test_problem_of_a_rule_file_names_its_path() -> None:
    with pytest.raises(BadFile) as refused:
        read_file(
            "platform: [{name: a, effect: deny, surfaces: [x, A b]}]\n"
            "tenants: {acme: [{name: a, effect: deny, surfaces: [x], value: 1}]}"
        )
    assert refused.value.problems == (
        "platform[0].surfaces[1]: Must be a surface, or a prefix and `.*`.",
        "tenants.acme[0].value: Unknown field.",
    )


def _run(app: Flask, command: str, *options: str, file: str | None = None) -> Result:
    return app.test_cli_runner().invoke(args=["rules", command, *options, *WHY], input=file)


def _export(app: Flask, *options: str) -> str:
    result = _run(app, "export", *options)
    assert result.exit_code == 0, result.output
    return result.stdout


def _import(app: Flask, file: str, *options: str) -> str:
    result = _run(app, "import", "-", *options, file=file)
    assert result.exit_code == 0, result.output
    return result.stdout


def _of(tenant: MadeTenant, *drafts: dict[str, Any]) -> str:
    return yaml.safe_dump({"tenants": {tenant.slug: list(drafts)}})


def test_import_creates_and_changes_rules_and_keeps_unchanged_ones(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    full = add_rule(client, admin.headers(), **FULL)
    add_rule(client, admin.headers(), "kept")
    file = _of(tenant, draft("new"), FULL | {"mfa": False, "ticket": None}, draft("kept"))

    output = _import(app, file, "--by", "deploy@example.org")
    assert output.splitlines() == [
        f'+ {tenant.slug}: "new"',
        f'~ {tenant.slug}: "Office hours only"',
        '    ticket: "INC-*" → null',
        "    mfa: true → false",
        "1 created, 1 changed, 0 deleted, 1 unchanged.",
    ]
    now = client.get(of(full), headers=admin.headers()).get_json()
    assert (now["mfa"], now["ticket"], now["version"]) == (False, None, 2)
    assert (now["created_by"], now["updated_by"]) == (admin.email, OPERATOR)
    assert names(client, admin.headers()) == ["Office hours only", "kept", "new"]

    assert _import(app, file) == "0 created, 0 changed, 0 deleted, 3 unchanged.\n"
    assert client.get(of(full), headers=admin.headers()).get_json() == now
    history = client.get(f"{of(full)}/history", headers=admin.headers()).get_json()
    assert history["total"] == 2


def test_exported_file_restores_deleted_rules(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    for name in ("Ünïcode 🎫: #1", "yes", "  kept spaces "):
        add_rule(client, admin.headers(), **(FULL | {"name": name}))
    before = client.get(PATH, headers=admin.headers()).get_json()["items"]
    exported = _export(app, "--tenant", tenant.slug)
    assert _import(app, exported).startswith("0 created, 0 changed, 0 deleted, 3 unchanged")

    _import(app, _of(tenant), "--prune")
    assert names(client, admin.headers()) == []
    assert _export(app, "--tenant", tenant.slug) == _of(tenant)
    _import(app, exported)
    after = client.get(PATH, headers=admin.headers()).get_json()["items"]
    assert list(map(_draft, after)) == list(map(_draft, before))
    assert _export(app, "--tenant", tenant.slug) == exported


def _draft(rule: dict[str, Any]) -> dict[str, Any]:
    return {name: rule[name] for name in FULL}


def test_prune_deletes_only_rules_of_owners_that_the_file_names(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account, outsider: Account
) -> None:
    for account in (admin, outsider):
        add_rule(client, account.headers(), "old")
        add_rule(client, account.headers(), "older")
    kept = _of(tenant, draft("old"))
    assert _import(app, kept) == "0 created, 0 changed, 0 deleted, 1 unchanged.\n"
    output = _import(app, kept, "--prune")
    assert output.splitlines()[0] == f'- {tenant.slug}: "older"'
    assert names(client, admin.headers()) == ["old"]
    assert names(client, outsider.headers()) == ["old", "older"]


def test_dry_run_of_an_import_shows_its_steps_and_changes_nothing(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    add_rule(client, admin.headers(), "old")
    before = client.get(PATH, headers=admin.headers())
    file = _of(tenant, draft("new"))
    shown = json.loads(_import(app, file, "--prune", "--dry-run", "--json"))
    assert client.get(PATH, headers=admin.headers()).get_json() == before.get_json()
    assert shown.pop("dry_run")
    done = json.loads(_import(app, file, "--prune", "--json"))
    assert not done.pop("dry_run")
    assert shown == done
    assert [step["kind"] for step in done["steps"]] == ["created", "deleted"]
    assert names(client, admin.headers()) == ["new"]


def test_import_with_one_refused_rule_changes_nothing(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    other = add_tenant(app)
    both = {tenant.slug: [draft("a")], f"not-{other.slug}": [draft("b")]}
    refused = _run(app, "import", "-", file=yaml.safe_dump({"tenants": both}))
    assert refused.exit_code == 1
    assert f"not-{other.slug}" in refused.stderr
    lockout = _export(app, "--platform").replace("owner", "support")
    mixed = yaml.safe_load(lockout) | yaml.safe_load(_of(tenant, draft("a")))
    refused = _run(app, "import", "-", "--prune", file=yaml.safe_dump(mixed))
    assert refused.exit_code == 1
    assert "owner administer the platform's rules" in refused.stderr
    bad = _run(app, "import", "-", file=_of(tenant, draft("a"), draft("b", effect="no")))
    assert bad.exit_code == 1
    assert f"tenants.{tenant.slug}[1].effect" in bad.stderr
    assert names(client, admin.headers()) == []


def test_platform_rules_are_exported_pruned_and_imported(
    app: Flask, client: FlaskClient, tenant: MadeTenant, owner: Account
) -> None:
    headers = owner.headers("global", INCIDENT)
    word = f"export-{tenant.slug}"
    add_rule(client, headers, word, surfaces=[word.replace("-", "_")])
    exported = _export(app, "--platform")
    assert list(yaml.safe_load(exported)) == ["platform"]
    assert word in [rule["name"] for rule in yaml.safe_load(exported)["platform"]]
    assert word in _export(app)
    without = yaml.safe_load(exported)
    without["platform"] = [rule for rule in without["platform"] if rule["name"] != word]
    _import(app, yaml.safe_dump(without), "--prune")
    assert names(client, headers, q=word) == []
    _import(app, exported)
    assert names(client, headers, q=word) == [word]
    _import(app, yaml.safe_dump(without), "--prune")


def test_export_with_two_owners_or_an_unknown_tenant_is_refused(app: Flask) -> None:
    assert _run(app, "export", "--tenant", "acme", "--platform").exit_code == 2
    nobody = _run(app, "export", "--tenant", "no-such-tenant")
    assert (nobody.exit_code, nobody.stdout) == (1, "")


def test_import_of_a_file_that_is_not_utf8_is_refused(app: Flask, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_bytes(b"\xff\xfe")
    refused = _run(app, "import", str(tmp_path / "rules.yaml"))
    assert (refused.exit_code, "UTF-8" in refused.stderr) == (1, True)


def test_rule_file_with_too_many_rules_of_an_owner_is_one_problem() -> None:
    for place, text in (
        ("platform", "platform:\n" + "- 1\n" * (MAX_RULES + 1)),
        ("tenants.acme", "tenants:\n  acme:\n" + "  - 1\n" * (MAX_RULES + 1)),
    ):
        with pytest.raises(BadFile) as refused:
            read_file(text)
        assert refused.value.problems == (f"{place}: Longer than maximum length {MAX_RULES}.",)


def test_object_of_a_wrong_length_is_refused_before_its_values_are_looked_at() -> None:
    values = ma.fields.Integer(required=True)
    field = MapOf(keys=ma.fields.String(), values=values, validate=ma.validate.Length(max=2))
    with pytest.raises(ma.ValidationError) as refused:
        field.deserialize(dict.fromkeys("abc", "no number"))
    assert refused.value.messages == ["Longer than maximum length 2."]


def test_rule_file_that_is_too_large_is_not_parsed(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "rules.yaml"
    with file.open("wb") as opened:
        opened.truncate(MAX_FILE + 2)  # a hole on the disk
    refused = run("rules", "import", str(file), *WHY)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"more than {MAX_FILE:,} characters" in refused.stderr
