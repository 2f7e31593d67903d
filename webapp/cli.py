"""The `flask` commands: every group's registration, `flask db` and `flask doctor`."""

import sys

import click
from flask import Flask, current_app
from flask.cli import with_appcontext
from sqlalchemy import make_url

from webapp.caching import cache_cli
from webapp.commands import Commands, as_json, print_json, print_rows
from webapp.db import migrate
from webapp.directory.cli import tenants, tokens, users
from webapp.doctor import Diagnosis, diagnose
from webapp.extensions import current_settings
from webapp.grants.cli import group as grants
from webapp.ledger.cli import group as audit
from webapp.rules.cli import group as rules
from webapp.scope.cli import group as scope

db_cli = Commands("db", help="The database's schema and roles.")


def init_app(app: Flask) -> None:
    for group in (db_cli, audit, cache_cli, grants, rules, scope, tenants, users, tokens):
        app.cli.add_command(group)
    app.cli.add_command(doctor)
    if not app.extensions["settings"].deployed:
        from webapp.demo.cli import group as demo

        app.cli.add_command(demo)


@db_cli.command("upgrade")
def upgrade() -> None:
    """Make the roles that are missing and run the migrations that are pending."""
    try:
        done = migrate.upgrade(current_settings())
    except migrate.NotMigrated as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Migrated: {', '.join(done)}" if done else "The database is at this version.")


@db_cli.command("check")
@as_json
def check(*, as_json: bool) -> None:
    """Compare the models, the migrations and the database; exit 1 where they differ."""
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
            click.echo("Models, migrations and database agree.")
    sys.exit(1 if drift else 0)


@db_cli.command("roles")
def roles() -> None:
    """Print the SQL that makes the roles, for a DBA to run instead of `flask db upgrade`."""
    login = make_url(current_settings().database_url).username or ""
    for statement in migrate.role_statements(login):
        click.echo(f"{statement};")
    quoted = migrate.identifier(login)
    click.echo(f"-- then, in psql, the password that DATABASE_URL has:  \\password {quoted}")


@click.command("doctor")
@with_appcontext
@as_json
def doctor(*, as_json: bool) -> None:
    """Check every dependency, and what each guarantee rests on; exit 1 when anything is wrong."""
    found = diagnose(current_app)
    print_rows(Diagnosis, found, as_json=as_json)
    sys.exit(0 if all(diagnosis.ok for diagnosis in found) else 1)
