"""The commands `flask tenants`, `flask users` and `flask tokens`."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from flask import Flask
from sqlalchemy import make_url

from tests.conftest import Run
from webapp.application import create_app
from webapp.http.errors import Unauthenticated
from webapp.identity import tokens
from webapp.identity.principal import Principal


def unique(word: str) -> str:
    return f"{word}-{uuid4().hex[:12]}"


def succeed(run: Run, *arguments: str) -> Any:
    """Run a command with `--json`, and return what it prints."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return orjson.loads(result.stdout)


def refuse(run: Run, *arguments: str, says: str, code: int = 1) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert isinstance(result.exception, SystemExit)  # not the error itself: no traceback
    assert says in result.stderr
    assert not result.stdout


def who(app: Flask, token: str) -> Principal:
    with app.app_context():
        return tokens.verify(token)


def test_created_token_works_until_it_is_revoked(app: Flask, run: Run) -> None:
    slug, email = unique("acme"), f"{unique('ann')}@example.org"
    tenant = succeed(run, "tenants", "create", slug, "--name", "Acme [bold]Rockets")
    user = succeed(run, "users", "create", email)
    succeed(run, "users", "join", email, slug, "--role", "admin")
    succeed(run, "users", "join", email, slug, "--role", "admin")
    made = succeed(run, "tokens", "create", email, "--name", "laptop", "--expires-in", "12h")
    principal = who(app, made["token"])
    assert principal.roles == (f"{slug}:admin",)
    assert (str(principal.id), str(principal.token_id)) == (user["id"], made["id"])
    assert str(principal.memberships[0].tenant_id) == tenant["id"]
    assert principal.expires_at == datetime.fromisoformat(made["expires_at"])

    [listed] = [t for t in succeed(run, "tenants", "list")["items"] if t["slug"] == slug]
    assert listed["name"] == "Acme [bold]Rockets"
    [listed] = [u for u in succeed(run, "users", "list")["items"] if u["email"] == email]
    assert listed["roles"] == [f"{slug}:admin"]

    succeed(run, "users", "leave", email, slug)
    succeed(run, "users", "grant", email, "auditor")
    succeed(run, "users", "grant", email, "auditor")
    succeed(run, "users", "grant", email, "support")
    succeed(run, "users", "revoke", email, "auditor")
    assert who(app, made["token"]).roles == ("support",)
    succeed(run, "tokens", "revoke", made["id"])
    with pytest.raises(Unauthenticated):
        who(app, made["token"])
    [listed] = succeed(run, "tokens", "list", "--user", email)["items"]
    assert listed["revoked_at"] is not None
    assert listed["last_used_at"] is None


def test_token_secret_is_printed_only_when_made(run: Run) -> None:
    email = f"{unique('ann')}@example.org"
    succeed(run, "users", "create", email)
    made = run("tokens", "create", email, "--name", "laptop")
    assert made.exit_code == 0
    secret = made.stdout.strip()
    assert secret.startswith(tokens.TOKEN_PREFIX)
    assert secret not in made.stderr
    for arguments in (["tokens", "list"], ["tokens", "list", "--json"]):
        listed = run(*arguments)
        assert email in listed.output
        assert tokens.TOKEN_PREFIX not in listed.output


def test_token_lifetime_is_parsed_and_bounded(run: Run) -> None:
    email = f"{unique('ann')}@example.org"
    succeed(run, "users", "create", email)

    def expiry(*options: str) -> datetime | None:
        made = succeed(run, "tokens", "create", email, "--name", "laptop", *options)
        return datetime.fromisoformat(made["expires_at"]) if made["expires_at"] else None

    assert expiry("--expires-in", "never") is None
    for options, days in (((), 90), (("--expires-in", "2w"), 14), (("--expires-in", "24h"), 1)):
        lifetime = timedelta(days=days)
        before = datetime.now(UTC)
        expires_at = expiry(*options)
        assert expires_at is not None
        assert before + lifetime <= expires_at <= datetime.now(UTC) + lifetime
    for wrong in ("0d", "90", "-1d", "1y", "99999w", "٣d", ""):
        arguments = ("tokens", "create", email, "--name", "laptop", "--expires-in", wrong)
        refuse(run, *arguments, says="must be like 90d", code=2)


def test_tables_show_names_as_they_were_given(run: Run) -> None:
    slug, email = unique("acme"), f"{unique('ann')}@example.org"
    succeed(run, "tenants", "create", slug, "--name", ":rocket: [red]Acme[/red]")
    succeed(run, "users", "create", email)
    succeed(run, "users", "join", email, slug)
    made = succeed(run, "tokens", "create", email, "--name", "laptop")
    tables = {name: run(name, "list").stdout for name in ("tenants", "users", "tokens")}

    def line(table: str, word: str) -> str:
        [found] = [line for line in tables[table].splitlines() if word in line]
        return found

    assert ":rocket: [red]Acme[/red]" in line("tenants", slug)
    assert f"{slug}:member" in line("users", email)
    assert made["id"] in line("tokens", email)


def test_refused_command_prints_one_line_and_fails(run: Run) -> None:
    slug, email = unique("acme"), f"{unique('ann')}@example.org"
    succeed(run, "tenants", "create", slug)
    succeed(run, "users", "create", email)
    refuse(run, "tenants", "create", slug, says=f"There is a tenant {slug} already.")
    refuse(run, "tenants", "create", "Not A Slug", says="The slug must be")
    refuse(run, "tenants", "create", unique("x"), "--name", "a\x1b[31mb", says="The name must be")
    refuse(run, "users", "create", email.upper(), says=f"There is a user {email} already.")
    refuse(run, "users", "create", "ann", says="The email must be")
    refuse(run, "users", "join", "no@example.org", slug, says="There is no user no@example.org.")
    refuse(run, "users", "join", email, "no-such", says="There is no tenant no-such.")
    refuse(run, "users", "leave", email, slug, says=f"{email} is no member of {slug}.")
    refuse(run, "users", "revoke", email, "owner", says="does not have the role owner")
    refuse(run, "users", "grant", email, "king", says="'king' is not one of", code=2)
    refuse(run, "tokens", "create", email, "--name", "", says="The name must be")
    refuse(run, "tokens", "list", "--user", "no@example.org", says="There is no user")
    refuse(run, "tokens", "revoke", str(UUID(int=0)), says="There is no such token")
    refuse(run, "tokens", "revoke", "x", says="'x' is not a valid UUID", code=2)


def test_email_addresses_are_the_same_in_any_case(run: Run) -> None:
    email = f"{unique('Ann')}@Example.org"
    assert succeed(run, "users", "create", email)["email"] == email.lower()
    succeed(run, "users", "grant", email.upper(), "support")


def test_unreachable_database_is_reported_without_a_traceback(app: Flask) -> None:
    settings = app.extensions["settings"]
    nowhere = make_url(settings.database_url).set(port=1).render_as_string(hide_password=False)
    down = create_app(replace(settings, database_url=nowhere))
    result = down.test_cli_runner().invoke(args=["tenants", "list"])
    assert result.exit_code == 1
    assert "The database does not answer" in result.stderr
    assert "Traceback" not in result.output
