"""No process of the product works as a role that could step around row level security."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import requests

from tests.caching.servers import PostgresServer
from tests.platform.databases import Database
from tests.processes import STARTUP, command_of, run_server, run_worker, started
from webapp import create_app, migrate
from webapp.boot import UNSAFE
from webapp.db import UnsafeLoginRole
from webapp.extensions import db, reach_database
from webapp.settings import read_settings
from webapp.stack.servers import OWNER_ROLE, free_port

TENANTS = ["flask", "--app", "wsgi", "tenants", "list"]
PROBLEMS = {
    "is a superuser": ["alter role {role} superuser"],
    "has BYPASSRLS": ["alter role {role} bypassrls"],
    "has CREATEROLE": ["alter role {role} createrole"],
    "owns a_table": ["create table a_table ()", "alter table a_table owner to {role}"],
    "inherits sightline_tenant": ["grant sightline_tenant to {role} with inherit true"],
    f"may become {OWNER_ROLE}": [f"grant {OWNER_ROLE} to {{role}} with inherit false, set true"],
}


@pytest.fixture(scope="module")
def database(server: PostgresServer, environment: dict[str, str]) -> Database:
    made = Database(server, "sightline", others=environment).make()
    with mock.patch.dict(os.environ, made.environment):
        migrate.upgrade(read_settings())
    return made


@pytest.fixture(scope="module")
def unsafe(database: Database) -> dict[str, Database]:
    """By its problem, the database as a role that would do but for that."""
    found = {}
    for number, (problem, statements) in enumerate(PROBLEMS.items()):
        role = f"unsafe_{number}"
        database.run(*migrate.role_statements(role))
        database.set_password(role)
        database.run(*(statement.format(role=role) for statement in statements))
        found[problem] = replace(database, login=role)
    return found


def end_of(command: list[str], environment: Mapping[str, str], log: Path) -> tuple[int, str]:
    """How a process ends, by itself, and what it has said."""
    with started(command, {**environment, "PORT": str(free_port())}, log) as process:
        code = process.wait(STARTUP)
    return code, log.read_text()


@pytest.mark.parametrize("process", ["web", "worker"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_no_server_process_starts(
    unsafe: dict[str, Database], problem: str, process: str, tmp_path: Path
) -> None:
    environment = unsafe[problem].environment
    code, said = end_of(command_of(process), environment, tmp_path / "log")
    assert code == UNSAFE
    assert "unsafe_login_role" in said
    assert problem in said
    assert "Traceback" not in said


@pytest.mark.parametrize("problem", PROBLEMS)
def test_no_command_reads_the_database(
    unsafe: dict[str, Database], problem: str, tmp_path: Path
) -> None:
    code, said = end_of(TENANTS, unsafe[problem].environment, tmp_path / "log")
    assert code == 1
    assert "Error: Refused: the database's login role" in said
    assert problem in said
    assert "Traceback" not in said


def test_the_doctor_says_it(unsafe: dict[str, Database], tmp_path: Path) -> None:
    command = ["flask", "--app", "wsgi", "doctor"]
    code, said = end_of(command, unsafe["is a superuser"].environment, tmp_path / "log")
    assert code == 1
    assert "the database's login role is a superuser" in said


def test_no_later_connection_is_let_through(unsafe: dict[str, Database]) -> None:
    with mock.patch.dict(os.environ, unsafe["has BYPASSRLS"].environment):
        app = create_app(read_settings())
    for _ in range(3):
        with app.app_context(), pytest.raises(UnsafeLoginRole):
            reach_database()
    with app.app_context():
        db.engine.dispose()


def test_the_role_that_the_upgrade_made_is_taken(database: Database, tmp_path: Path) -> None:
    code, said = end_of(TENANTS, database.environment, tmp_path / "log")
    assert code == 0, said


def test_a_worker_keeps_no_connection_that_its_children_would_share(
    database: Database, tmp_path: Path
) -> None:
    connections = (
        "select count(*) filter (where usename = current_setting('test.login'))"
        " from pg_stat_activity"
    )
    name = f"set test.login = '{database.login}'"
    with run_worker(database.environment, tmp_path / "log"):
        # The server takes a moment to see a connection's end.
        deadline = time.monotonic() + STARTUP
        while database.run(name, connections) != [(0,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_database_that_is_not_there_yet_is_no_reason(
    environment: dict[str, str], tmp_path: Path
) -> None:
    url = f"postgresql://app:secret@127.0.0.1:{free_port()}/sightline"
    without = {**environment, "DATABASE_URL": url}
    log = tmp_path / "log"
    with (
        run_worker(without, tmp_path / "worker.log"),
        run_server(command_of("web"), "/healthz", without, log) as web,
    ):
        assert requests.get(f"{web.url}/readyz", timeout=STARTUP).status_code == 503
        assert "database_unavailable_at_start" in log.read_text()
