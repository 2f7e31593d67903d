"""`flask rules list`, as an operator runs it."""

import json

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.factories import INCIDENT, Account, MadeTenant
from tests.operators import WHY
from tests.rules.calls import add_rule
from webapp.rules import cli


def _run(app: Flask, *arguments: str) -> str:
    result = app.test_cli_runner().invoke(args=["rules", "list", *arguments, *WHY])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_list_shows_rules_of_every_tenant_and_of_the_platform(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account, owner: Account
) -> None:
    word = tenant.slug
    own = add_rule(client, admin.headers(), f"{word} [red]own[/red]", surfaces=["a", "b.*"])
    platforms = add_rule(client, owner.headers("global", INCIDENT), f"{word} platform's")

    items = json.loads(_run(app, "--q", word, "--json"))["items"]
    assert items == [own, platforms]
    assert json.loads(_run(app, "--tenant", word, "--json"))["items"] == [own]
    lines = _run(app, "--q", word).splitlines()
    (line,) = [line for line in lines if "own" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        own["name"],
        tenant.slug,
        "deny",
        "a, b.*",
        "yes",
        "1",
    ]


def test_list_shows_more_rules_than_one_page_holds(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "MAX_LIMIT", 2)
    made = [add_rule(client, admin.headers(), f"rule {number}") for number in range(5)]
    assert json.loads(_run(app, "--tenant", tenant.slug, "--json"))["items"] == made


def test_list_of_a_tenant_without_rules_is_no_error(app: Flask, tenant: MadeTenant) -> None:
    assert json.loads(_run(app, "--tenant", tenant.slug, "--json")) == {"items": []}
    assert _run(app, "--tenant", tenant.slug) == "Nothing found.\n"


@pytest.mark.parametrize("command", [("list",), ("list", "--json"), ("export",)])
def test_unknown_tenant_is_refused(app: Flask, command: tuple[str, ...]) -> None:
    arguments = ["rules", *command, "--tenant", "no-such-tenant", *WHY]
    result = app.test_cli_runner().invoke(args=arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "There is no tenant no-such-tenant." in result.stderr


def test_export_refuses_a_part_of_cedar_for_yaml(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["rules", "export", "--part", "schema", *WHY])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--part is for --format cedar." in result.stderr
