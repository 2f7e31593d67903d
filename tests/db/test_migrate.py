"""`flask db`: an empty database is migrated to this version once, by one upgrade of several."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import psycopg2
import pytest
from alembic.script import ScriptDirectory
from click.testing import Result
from flask import Flask
from sqlalchemy.exc import ProgrammingError

from tests.caching.servers import PostgresServer
from tests.db.databases import PASSWORD, Database
from tests.processes import STARTUP, started
from webapp.application import create_app
from webapp.db import migrate
from webapp.db.roles import find_unlimited_logins
from webapp.db.scopes import LedgerScope
from webapp.extensions import db
from webapp.settings import Settings, read_settings
from webapp.stack.servers import OWNER_ROLE

pytestmark = pytest.mark.slow(seconds=0.7)

REVISIONS = {script.revision for script in ScriptDirectory(migrate.MIGRATIONS).walk_revisions()}
UPGRADE = ["flask", "--app", "wsgi", "db", "upgrade"]
ODD = 'Sightline "App", 100% o\'K'
"""A role's name that must be quoted everywhere."""


@pytest.fixture
def database(server: PostgresServer, environment: dict[str, str]) -> Iterator[Database]:
    """An empty database on a server without any of the product's roles but the owner's."""
    made = Database(server, "fresh", others=environment).make()
    yield made
    roles = "select rolname from pg_roles where rolname !~ '^(pg_|postgres$)'"
    names = [migrate.identifier(name) for (name,) in made.run(roles)]
    owned = [f"drop owned by {name} cascade" for name in names]
    made.run("drop schema public cascade", *owned)
    elsewhere = Database(server, "postgres")
    elsewhere.run(
        f"drop database {made.name} with (force)", *(f"drop role {name}" for name in names)
    )


def settings_of(database: Database) -> Settings:
    with mock.patch.dict(os.environ, database.environment):
        return read_settings()


@contextmanager
def application(database: Database) -> Iterator[Flask]:
    app = create_app(settings_of(database))
    yield app
    with app.app_context():
        db.engine.dispose()


def flask(database: Database, *command: str) -> Result:
    with application(database) as app:
        return app.test_cli_runner().invoke(args=command)


def is_reached(database: Database) -> bool:
    """Whether the product's login role connects and is accepted."""
    with application(database) as app, app.app_context():
        db.reach()
    return True


def tables(database: Database) -> set[str]:
    found = database.run("select tablename from pg_tables where schemaname = 'public'")
    return {name for (name,) in found}


def test_empty_database_is_migrated_to_this_version(database: Database) -> None:
    assert migrate.check(settings_of(database)).pending
    assert set(migrate.upgrade(settings_of(database)).revisions) == REVISIONS
    assert not migrate.check(settings_of(database))
    assert {"tenants", "rules", "audit_events", "alembic_version"} <= tables(database)
    assert is_reached(database)


def test_second_upgrade_changes_nothing(database: Database) -> None:
    first = flask(database, "db", "upgrade")
    assert first.exit_code == 0
    assert all(revision in first.output for revision in REVISIONS)
    database.run("create table kept (n int)", "insert into kept values (1)")
    second = flask(database, "db", "upgrade")
    assert second.exit_code == 0
    assert second.output == "The database is at this version.\n"
    assert database.run("select n from kept") == [(1,)]


def test_concurrent_upgrades_migrate_once(database: Database, tmp_path: Path) -> None:
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    with ExitStack() as running:
        processes = [
            running.enter_context(started(UPGRADE, database.environment, log)) for log in logs
        ]
        codes = [process.wait(STARTUP) for process in processes]
    said = sorted(log.read_text() for log in logs)
    assert codes == [0, 0, 0], said
    assert said[0].startswith("Migrated: ")
    assert said[1:] == ["The database is at this version.\n"] * 2
    assert not migrate.check(settings_of(database))


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_upgrade_waits_for_another_first_upgrade_however_that_ends(
    database: Database, ends: str
) -> None:
    before = database.run("select rolname from pg_roles order by 1")
    upgrading = threading.Thread(target=migrate.upgrade, args=[settings_of(database)])
    other = psycopg2.connect(database.environment["DATABASE_OWNER_URL"])
    with other.cursor() as cursor:
        cursor.execute(str(migrate.MAKE_VERSIONS))
        upgrading.start()
        deadline = time.monotonic() + STARTUP
        while not database.run("select 1 from pg_locks where not granted"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert tables(database) == set()
        assert database.run("select rolname from pg_roles order by 1") == before
    getattr(other, ends)()
    other.close()
    upgrading.join(STARTUP)
    assert not migrate.check(settings_of(database))


def test_upgrade_says_how_long_it_has_waited_for_another_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "TURN_LIMIT", 1)
    with held(database, str(migrate.MAKE_VERSIONS)):
        refused = flask(database, "db", "upgrade")
    assert (refused.exit_code, refused.output) == (
        1,
        "Error: Nothing was changed: another release has been migrating for 1 s; try again\n",
    )
    assert tables(database) == set()


def test_migration_gives_up_a_table_that_somebody_uses_for_long(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(settings_of(database))
    database.run("update alembic_version set version_num = '0006'")
    monkeypatch.setattr(migrate, "LOCK_LIMIT", 1)
    with held(database, "lock table audit_quarantine in access share mode"):
        refused = flask(database, "db", "upgrade")
    assert (refused.exit_code, refused.output) == (
        1,
        "Error: Nothing was changed: somebody has held a lock that a migration needs for 1 s;"
        " try again\n",
    )
    assert database.run("select version_num from alembic_version") == [("0006",)]


def test_login_of_a_process_cannot_hold_up_an_upgrade(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold any advisory lock, and read the table of versions."""
    migrate.upgrade(settings_of(database))
    monkeypatch.setattr(migrate, "TURN_LIMIT", 1)
    login = psycopg2.connect(database.environment["DATABASE_URL"])
    with login.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(5741639220415837001)")
        cursor.execute("set role sightline_identity")
        cursor.execute("lock table alembic_version in access share mode")
        assert migrate.upgrade(settings_of(database)).revisions == ()
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("lock table alembic_version in row share mode")
    login.close()


@contextmanager
def held(database: Database, statement: str) -> Iterator[None]:
    """Run a statement as the owner, in a transaction that lasts as long as the block."""
    owner = psycopg2.connect(database.environment["DATABASE_OWNER_URL"])
    try:
        owner.cursor().execute(statement)
        yield
    finally:
        owner.close()


def test_db_check_agrees_after_upgrade_and_reports_an_added_column(database: Database) -> None:
    flask(database, "db", "upgrade")
    agreed = flask(database, "db", "check")
    assert (agreed.exit_code, agreed.output) == (0, "Models, migrations and database agree.\n")
    database.run("alter table tenants add column drifted text")
    found = flask(database, "db", "check")
    assert found.exit_code == 1
    assert "drifted" in found.output
    as_json = flask(database, "db", "check", "--json")
    assert as_json.exit_code == 1
    drift = json.loads(as_json.output)
    assert drift["pending"] == []
    (difference,) = drift["differences"]
    assert "drifted" in difference
    database.run("alter table tenants drop column drifted")
    assert flask(database, "db", "check").exit_code == 0


@pytest.mark.parametrize(
    "change",
    [
        "alter table rules drop column ticket",
        "alter table rules alter column name type varchar(100)",
        "alter table rules alter column name drop not null",
        "drop index uq_rules_tenant_id_name",
        "create table drifted (id int primary key)",
    ],
)
def test_db_check_reports_a_changed_schema(database: Database, change: str) -> None:
    migrate.upgrade(settings_of(database))
    database.run(change)
    assert migrate.check(settings_of(database)).differences


def test_db_check_names_pending_revisions(database: Database) -> None:
    found = flask(database, "db", "check")
    assert found.exit_code == 1
    for revision in REVISIONS:
        assert f"pending: {revision}\n" in found.output


LATER = "a later version's schema"
BESIDE = "The database has a later version's schema (9999), beside which this version runs."
EXPANDED = (
    "create table of_later (id int primary key)",
    "alter table rules add column of_later text",
    "alter table rules add column counted int not null default 0",
    "alter table rules alter column name drop not null",
    "update alembic_version set version_num = '9999'",
)
CONTRACTED = {
    "a dropped column": (
        "alter table tenants drop column name",
        "alter table tenants add column name text not null",
    ),
    "a renamed table": (
        "alter table grant_approvals rename to approvals",
        "alter table approvals rename to grant_approvals",
    ),
    "a column that must be given": (
        "alter table tenants add column forced text not null",
        "alter table tenants drop column forced",
    ),
    "a column that may be null no more": (
        "alter table api_tokens alter column revoked_at set not null",
        "alter table api_tokens alter column revoked_at drop not null",
    ),
}


def readiness(database: Database) -> Any:
    """What `/readyz` says of the schema."""
    with application(database) as app:
        return app.test_client().get("/readyz").get_json()["checks"]["migrations"]


def test_version_runs_beside_a_later_schema_that_has_what_it_needs(database: Database) -> None:
    migrate.upgrade(settings_of(database))
    database.run(*EXPANDED)
    found = flask(database, "db", "upgrade")
    assert (found.exit_code, found.output) == (0, f"Nothing was changed. {BESIDE}\n")
    found = flask(database, "db", "check")
    assert (found.exit_code, found.output) == (0, f"{BESIDE}\n")
    assert readiness(database) == {
        "ok": True,
        "detail": f"{LATER}, beside which this version runs",
    }
    for contract, mend in CONTRACTED.values():
        database.run(contract)
        refused = flask(database, "db", "upgrade")
        assert (refused.exit_code, refused.output) == (
            1,
            f"Error: Nothing was changed: the database has {LATER} (9999), and this version"
            " cannot run beside it; `flask db check` says why\n",
        ), contract
        found = flask(database, "db", "check")
        assert (found.exit_code, found.output.count("differs: ")) == (1, 1), contract
        database.run(mend)
    assert flask(database, "db", "check").exit_code == 0


def test_version_is_not_ready_where_the_database_is_behind(database: Database) -> None:
    migrate.upgrade(settings_of(database))
    assert readiness(database)["ok"]
    database.run("update alembic_version set version_num = '0006'")
    behind = {"ok": False, "detail": "the database is behind this version's schema"}
    assert readiness(database) == behind
    database.run("delete from alembic_version")
    assert readiness(database) == behind


@pytest.mark.parametrize("login", ["sightline_commands", ODD])
def test_printed_sql_makes_the_roles_for_an_owner_who_may_not(
    server: PostgresServer, environment: dict[str, str], database: Database, login: str
) -> None:
    plain = Database(server, "fresh", login, "plain_owner", environment).make()
    printed = flask(plain, "db", "roles")
    assert printed.exit_code == 0
    assert f"\\password {migrate.identifier(login)}\n" in printed.output
    for _ in range(2):  # it may be run again
        database.run(printed.output)
    plain.set_password(login)
    assert flask(plain, "db", "upgrade").exit_code == 0
    assert is_reached(plain)


def test_login_role_with_special_characters_is_made(database: Database) -> None:
    odd = Database(database.server, database.name, ODD, others=database.others)
    assert flask(odd, "db", "upgrade").exit_code == 0
    assert is_reached(odd)
    attributes = odd.run(
        "select rolname, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolinherit"
        " from pg_roles where rolname ~ '^Sightline'"
    )
    assert attributes == [(ODD, False, False, False, False, False)]


def test_password_of_login_role_is_in_no_statement(database: Database) -> None:
    database.run("alter database fresh set log_statement = 'all'")
    migrate.upgrade(settings_of(database))
    log = database.server.log.read_text()
    assert "alter role sightline_commands password 'SCRAM-SHA-256$" in log
    assert PASSWORD.split("'")[0] not in log


def test_existing_login_role_keeps_its_password(database: Database) -> None:
    database.run("create role sightline_commands login noinherit password 'of the DBA'")
    migrate.upgrade(settings_of(database))
    url = database.server.url(database.login, "of the DBA", database.name)
    psycopg2.connect(url).close()


def test_upgrade_by_owner_who_may_not_make_roles_is_refused(
    server: PostgresServer, environment: dict[str, str], database: Database
) -> None:
    plain = Database(server, database.name, owner="plain_owner", others=environment).make()
    refused = flask(plain, "db", "upgrade")
    assert refused.exit_code == 1
    assert refused.output == (
        "Error: DATABASE_OWNER_URL may not create roles:"
        " have a DBA run what `flask db roles` prints\n"
    )
    assert tables(database) == set()


@pytest.mark.parametrize("command", ["upgrade", "check"])
def test_db_command_without_owner_url_is_refused(database: Database, command: str) -> None:
    ownerless = {**database.environment, "DATABASE_OWNER_URL": ""}
    with mock.patch.dict(os.environ, ownerless):
        app = create_app(read_settings())
    refused = app.test_cli_runner().invoke(args=["db", command])
    assert refused.exit_code == 1
    assert "Error: DATABASE_OWNER_URL is not set" in refused.output


def test_failed_upgrade_changes_nothing(database: Database) -> None:
    database.run(f"create table rules (of_somebody text); alter table rules owner to {OWNER_ROLE}")
    with pytest.raises(ProgrammingError, match="already exists"):
        migrate.upgrade(settings_of(database))
    assert tables(database) == {"rules"}
    database.run("drop table rules")
    assert set(migrate.upgrade(settings_of(database)).revisions) == REVISIONS


LIMITS = "select rolname, rolconnlimit from pg_roles where rolname ~ '^sightline_[wc]' order by 1"


def test_logins_share_the_servers_connections_unless_somebody_has_said_otherwise(
    database: Database,
) -> None:
    migrate.upgrade(settings_of(database))
    [(most,)] = database.run("select current_setting('max_connections')::int")
    shares = {"sightline_web": 60, "sightline_worker": 20, "sightline_commands": 15}
    expected = {login: most * share // 100 for login, share in shares.items()}
    assert dict(database.run(LIMITS)) == expected
    database.run("alter role sightline_web connection limit 7")
    migrate.upgrade(settings_of(database))
    assert dict(database.run(LIMITS)) == {**expected, "sightline_web": 7}
    said = {"web": 5, "worker": 4, "commands": 3}
    migrate.upgrade(with_connections(database, "web=5, worker=4,commands=3"))
    assert dict(database.run(LIMITS)) == {f"sightline_{name}": n for name, n in said.items()}


def test_connections_that_one_login_takes_are_missing_to_no_other(database: Database) -> None:
    migrate.upgrade(with_connections(database, "web=3,worker=4,commands=3"))
    database.set_password("sightline_web")
    stolen = database.server.url("sightline_web", quote(PASSWORD, safe=""), database.name)
    with ExitStack() as held:
        for _ in range(3):
            held.callback(psycopg2.connect(stolen).close)
        with pytest.raises(psycopg2.OperationalError, match="too many connections for role"):
            psycopg2.connect(stolen)
        assert is_reached(database)


def test_login_that_could_take_all_connections_is_named(database: Database) -> None:
    migrate.upgrade(settings_of(database))

    def found() -> list[str]:
        with application(database) as app, app.app_context(), db.scoped(LedgerScope()):
            return find_unlimited_logins(db.session)

    assert found() == []
    database.run("alter role sightline_web connection limit 90")
    assert found() == ["together they may have 125 of 100 connections"]
    database.run("alter role sightline_web connection limit -1")
    assert found() == ["sightline_web has no connection limit"]


def with_connections(database: Database, said: str) -> Settings:
    with mock.patch.dict(os.environ, {"DATABASE_CONNECTIONS": said}):
        return settings_of(database)
