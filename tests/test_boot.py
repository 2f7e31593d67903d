"""Starts with an unsafe login role: no process runs as one that could bypass row level security."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from secrets import token_urlsafe
from unittest import mock

import psutil
import pytest
import requests
from click.testing import Result

from tests.caching.servers import PostgresServer
from tests.db.databases import Database
from tests.processes import STARTUP, command_of, run_server, run_worker, started
from webapp.application import create_app
from webapp.boot import UNSAFE
from webapp.db import migrate
from webapp.db.roles import Process, UnsafeLoginRole, login_role
from webapp.extensions import db
from webapp.settings import read_settings
from webapp.stack.home import LOGIN_URLS
from webapp.stack.servers import OWNER_ROLE, free_port

pytestmark = pytest.mark.slow(seconds=2)

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
    """The database's settings with a login role that has exactly one problem."""
    found = {}
    for number, (problem, statements) in enumerate(PROBLEMS.items()):
        role = f"unsafe_{number}"
        database.run(*migrate.role_statements(role))
        database.set_password(role)
        database.run(*(statement.format(role=role) for statement in statements))
        found[problem] = replace(database, login=role)
    return found


def end_of(command: list[str], environment: Mapping[str, str], log: Path) -> tuple[int, str]:
    """Run a process to its end; returns its exit code and output."""
    with started(command, {**environment, "PORT": str(free_port())}, log) as process:
        code = process.wait(STARTUP)
    return code, log.read_text()


def invoke(database: Database, *command: str) -> Result:
    """Run a `flask` command of an application for this database."""
    with mock.patch.dict(os.environ, database.environment):
        app = create_app(read_settings())
    result = app.test_cli_runner().invoke(args=command)
    with app.app_context():
        db.engine.dispose()
    return result


@pytest.mark.parametrize("process", ["web", "worker"])
@pytest.mark.parametrize(
    "problem", ["is a superuser", "has BYPASSRLS", "owns a_table", "inherits sightline_tenant"]
)
def test_server_with_unsafe_login_role_does_not_start(
    unsafe: dict[str, Database], problem: str, process: str, tmp_path: Path
) -> None:
    environment = unsafe[problem].environment
    code, said = end_of(command_of(process), environment, tmp_path / "log")
    assert code == UNSAFE
    assert said.count("unsafe_login_role") == 1
    assert problem in said
    assert "Traceback" not in said


@pytest.mark.parametrize("process", ["web", "worker"])
def test_server_without_a_key_to_sign_with_does_not_start(
    database: Database, process: str, tmp_path: Path
) -> None:
    environment = {**database.environment, "JOURNAL_SIGNING_KEY": ""}
    code, said = end_of(command_of(process), environment, tmp_path / "log")
    assert code == 1
    assert said.count("JOURNAL_SIGNING_KEY is not set") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("problem", PROBLEMS)
def test_command_with_unsafe_login_role_reads_nothing(
    unsafe: dict[str, Database], problem: str
) -> None:
    result = invoke(unsafe[problem], "tenants", "list")
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("Error: Refused: the database's login role ")
    assert problem in line


def test_command_with_unsafe_login_role_prints_no_traceback(
    unsafe: dict[str, Database], tmp_path: Path
) -> None:
    command = ["flask", "--app", "wsgi", "tenants", "list"]
    code, said = end_of(command, unsafe["is a superuser"].environment, tmp_path / "log")
    assert code == 1
    assert "Error: Refused: the database's login role is a superuser" in said
    assert "Traceback" not in said


def test_doctor_reports_unsafe_login_role(unsafe: dict[str, Database]) -> None:
    result = invoke(unsafe["is a superuser"], "doctor")
    assert result.exit_code == 1
    assert "the database's login role is a superuser" in result.output


LOG = {"LOG_SIGNING_KEY": token_urlsafe(32), "LOG_ORIGIN": "sightline.example/log"}
"""What a deployed worker seals with."""


@pytest.mark.parametrize("missing", LOG)
def test_deployed_worker_without_what_it_seals_with_does_not_start(
    database: Database, missing: str, tmp_path: Path
) -> None:
    environment = {**deployed(database, "worker"), missing: ""}
    code, said = end_of(command_of("worker"), environment, tmp_path / "log")
    assert code == 1
    assert f"- {missing} is not set, and workers seal with it" in said
    assert "Traceback" not in said


def deployed(database: Database, login: Process) -> dict[str, str]:
    """The environment of a deployed process with the login of a kind of process."""
    database.set_password(login_role(login))
    own = replace(database, login=login_role(login)).environment
    return {**own, "SIGHTLINE_ENV": "qa", **LOG}


@pytest.mark.parametrize(
    ("process", "login", "beyond"),
    [
        ("web", "worker", "may become sightline_ledger, may become sightline_maintenance, may"),
        ("web", "commands", "may become sightline_directory, may become sightline_ledger, may"),
        ("worker", "web", "may become sightline_identity, may become sightline_principal, may"),
        (
            "worker",
            "commands",
            "may become sightline_directory, may become sightline_identity, may",
        ),
    ],
)
def test_deployed_server_with_another_kinds_login_does_not_start(
    database: Database, process: Process, login: Process, beyond: str, tmp_path: Path
) -> None:
    code, said = end_of(command_of(process), deployed(database, login), tmp_path / "log")
    assert code == UNSAFE
    assert said.count("unsafe_login_role") == 1
    assert beyond in said
    assert f"log in like sightline_{process}, which `flask db roles` makes" in said
    assert "Traceback" not in said


def test_deployed_servers_with_their_own_logins_start(database: Database, tmp_path: Path) -> None:
    with (
        run_worker(deployed(database, "worker"), tmp_path / "worker.log"),
        run_server(command_of("web"), "/readyz", deployed(database, "web"), tmp_path / "web.log"),
    ):
        pass


@pytest.mark.parametrize("role", ["pg_read_all_data", "pg_signal_backend", "a_group"])
def test_login_role_that_may_become_any_other_role_is_refused(
    database: Database, role: str
) -> None:
    database.run(*migrate.role_statements("too_much"))
    database.set_password("too_much")
    if role == "a_group":
        database.run("create role a_group")
    database.run(f"grant {role} to too_much with inherit false, set true")
    result = invoke(replace(database, login="too_much"), "tenants", "list")
    database.run(f"revoke {role} from too_much")
    assert result.exit_code == 1
    assert f"Refused: the database's login role may become {role}: log in like" in result.output


def test_later_connection_with_unsafe_login_role_is_refused(unsafe: dict[str, Database]) -> None:
    with mock.patch.dict(os.environ, unsafe["has BYPASSRLS"].environment):
        app = create_app(read_settings())
    for _ in range(3):
        with app.app_context(), pytest.raises(UnsafeLoginRole):
            db.reach()
    with app.app_context():
        db.engine.dispose()


def test_login_role_made_by_upgrade_is_accepted(database: Database) -> None:
    result = invoke(database, "tenants", "list", "--json")
    assert result.exit_code == 0
    assert json.loads(result.output) == {"items": []}


def test_worker_keeps_no_connection_that_its_children_would_share(
    database: Database, tmp_path: Path
) -> None:
    with run_worker(database.environment, tmp_path / "log") as worker:
        connections = psutil.Process(worker.pid).net_connections("tcp")
    assert database.server.port not in [at.raddr.port for at in connections if at.raddr]


def test_unreachable_database_does_not_stop_a_start(
    environment: dict[str, str], tmp_path: Path
) -> None:
    url = f"postgresql://app:secret@127.0.0.1:{free_port()}/sightline"
    without = {**environment, **dict.fromkeys(("DATABASE_URL", *LOGIN_URLS.values()), url)}
    log = tmp_path / "log"
    with (
        run_worker(without, tmp_path / "worker.log"),
        run_server(command_of("web"), "/healthz", without, log) as web,
    ):
        assert requests.get(f"{web.url}/readyz", timeout=STARTUP).status_code == 503
        assert "database_unavailable_at_start" in log.read_text()
