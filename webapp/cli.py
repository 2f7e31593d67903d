"""The `flask` commands: their registration, `flask db`, `flask doctor` and `flask version`.

A module that only some commands need is imported by those commands. Listing the commands takes a
third less time that way.
"""

import sys
from collections.abc import Iterable
from itertools import chain
from typing import Literal

import click
from flask import Flask, current_app
from flask.cli import with_appcontext
from sqlalchemy import make_url

from webapp.commands import Commands, LazyCommand, as_json, print_json, print_rows
from webapp.settings import current_settings
from webapp.version import VERSION

db_cli = Commands("db", help="Migrate the database and make its roles, as its tables' owner.")


def init_app(app: Flask) -> None:
    for command in (db_cli, doctor, version):
        app.cli.add_command(command)
    for load in (audit, cache, grants, ledger, rules, scope, tenants, tokens, users):
        app.cli.add_command(LazyCommand(load))
    if not app.extensions["settings"].deployed:
        app.cli.add_command(LazyCommand(demo))


@db_cli.command("upgrade")
def upgrade() -> None:
    """Make the roles that are missing and run the migrations that are pending."""
    from webapp.db import migrate

    try:
        done = migrate.upgrade(current_settings())
    except migrate.NotMigrated as error:
        raise click.ClickException(str(error)) from error
    if done.later:
        click.echo(f"Nothing was changed. {_describe_later(done.later)}")
    elif done.revisions:
        click.echo(f"Migrated: {', '.join(done.revisions)}")
    else:
        click.echo("The database is at this version.")


def _describe_later(revisions: Iterable[str]) -> str:
    named = ", ".join(revisions)
    return f"The database has a later version's schema ({named}), beside which this version runs."


@db_cli.command("check")
@as_json
def check(*, as_json: bool) -> None:
    """Compare the models, the migrations and the database; exit 1 where they differ."""
    from webapp.db import migrate

    try:
        drift = migrate.check(current_settings())
    except migrate.NotMigrated as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        print_json(drift)
    else:
        for revision in drift.pending:
            click.echo(f"pending: {revision}")
        for difference in drift.differences:
            click.echo(f"differs: {difference}")
        if not drift:
            agreed = "Models, migrations and database agree."
            click.echo(_describe_later(drift.later) if drift.later else agreed)
    sys.exit(1 if drift else 0)


@db_cli.command("roles")
def roles() -> None:
    """Print the SQL that makes the roles and the logins, and what each may do.

    A DBA runs it instead of `flask db upgrade`, and reads there what to expect.
    """
    from webapp.db import migrate
    from webapp.db.roles import SCOPE_ROLES

    named = make_url(current_settings().database_url).username or ""
    limits = (migrate.limit_statements(login) for login in migrate.logins(named))
    connections = migrate.connection_statements(named, current_settings().database_connections)
    for statement in chain(migrate.role_statements(named), *limits, connections):
        click.echo(f"{statement};")
    click.echo("-- Then, in psql, the passwords that each process has in its DATABASE_URL:")
    for login in migrate.logins(named):
        click.echo(f"-- \\password {migrate.identifier(login)}")
    click.echo("-- For pg_dump, by a superuser: others get an error, or no tenants' rows.")
    for statement in migrate.BACKUP_ROLE:
        click.echo(f"-- {statement};")
    click.echo("-- What each role may do then, by the migrations:")
    for role in SCOPE_ROLES:
        click.echo(f"-- {role}: {migrate.describe_privileges(role)}")


@click.command("doctor")
@with_appcontext
@click.option("--host", "only", flag_value="host", help="Only what concerns this host.")
@click.option("--database", "only", flag_value="database", help="Only what all hosts share.")
@as_json
def doctor(*, only: Literal["host", "database"] | None, as_json: bool) -> None:
    """Check every dependency, and what each guarantee rests on; exit 1 when anything is wrong.

    What cannot be checked from here is neither well nor wrong: `ok` is empty, and null in JSON.
    """
    from webapp.doctor import CHECKS, Diagnosis, diagnose

    found = diagnose(current_app, (only,) if only else tuple(CHECKS))
    print_rows(Diagnosis, found, as_json=as_json)
    sys.exit(1 if any(diagnosis.ok is False for diagnosis in found) else 0)


@click.command("version")
@as_json
def version(*, as_json: bool) -> None:
    """Print the version of Sightline."""
    if as_json:
        print_json({"version": VERSION})
    else:
        click.echo(f"Sightline, version {VERSION}")


def audit() -> click.Command:
    """Search the audit events, follow them, and check that none is missing."""
    from webapp.ledger.cli import group

    return group


def cache() -> click.Command:
    """Show, clear and fill the cache of typed results."""
    from webapp.caching.cli import group

    return group


def demo() -> click.Command:
    """Make three tenants to try things on, and access all of them once."""
    from webapp.demo.cli import group

    return group


def grants() -> click.Command:
    """Show and end approvals and break-glass."""
    from webapp.grants.cli import group

    return group


def ledger() -> click.Command:
    """Check the log of the ledger, prove what is in it, export it, and resume it."""
    from webapp.ledger.export.cli import export_command
    from webapp.ledger.sealing.cli import group
    from webapp.ledger.verify_cli import COMMANDS

    for command in COMMANDS:
        group.add_command(command)
    group.add_command(export_command)
    return group


def rules() -> click.Command:
    """Show, check, try, export and import the rules that decide elevations."""
    from webapp.rules.cli import group

    return group


def scope() -> click.Command:
    """Prove that no way leads around the tenants' scopes."""
    from webapp.scope.cli import group

    return group


def tenants() -> click.Command:
    """Administer tenants: the customers, whose rows are kept apart."""
    from webapp.directory.cli import tenants

    return tenants


def tokens() -> click.Command:
    """Make, show and revoke API tokens."""
    from webapp.directory.cli import tokens

    return tokens


def users() -> click.Command:
    """Administer users, their platform roles and their memberships."""
    from webapp.directory.cli import users

    return users
