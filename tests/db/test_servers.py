"""PostgreSQL as one of several servers that a URL names, and of a version that is too old."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import create_engine

from tests.caching.servers import PostgresServer
from tests.db.databases import Database
from tests.processes import ROOT
from tests.test_settings import GOOD
from webapp.db import deadline
from webapp.db.deadline import Connector, UnsupportedServer
from webapp.hardening.connections import with_hosts_apart
from webapp.stack.servers import free_port

OLD = Path("/usr/lib/postgresql/15/bin")
SECONDS = 5.0


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where the kernel accepts, and nobody answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def url_of(server: PostgresServer, *ports: int, options: str = "") -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in (*ports, server.port))
    return f"postgresql://postgres:superuser@{hosts}/postgres{options}"


def port_of(connection: psycopg2.extensions.connection) -> int:
    with connection:
        return connection.info.port


@pytest.mark.parametrize(
    ("given", "parameters"),
    [
        ("//app:pw@db/x", "//app:pw@db/x"),
        ("//app:pw@a:1,b/x", "//app:pw@/x?host=a,b&port=1,5432"),
        ("//app@a,[::1]:2/x?sslmode=require", "//app@/x?sslmode=require&host=a,::1&port=5432,2"),
        ("//a,b", "///?host=a,b&port=5432,5432"),
        ("//app:pw@a:b,c/x", "//app:pw@a:b,c/x"),
    ],
)
def test_list_of_hosts_becomes_parameters(given: str, parameters: str) -> None:
    assert with_hosts_apart(f"postgresql:{given}") == f"postgresql:{parameters}"


def test_engine_connects_to_the_server_of_a_list_that_is_there(server: PostgresServer) -> None:
    url = with_hosts_apart(url_of(server, free_port())).replace(
        "postgresql:", "postgresql+psycopg2:"
    )
    connector = Connector(SECONDS)
    engine = create_engine(url, connect_args={"connection_factory": connector.connect})
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        assert driver.info.port == server.port
    engine.dispose()


def test_silent_server_is_left_for_the_next_one_which_is_tried_first_from_then_on(
    server: PostgresServer, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline.BoundedConnection, "limit", 0.5)
    connector = Connector(SECONDS)
    url = url_of(server, silent)
    assert port_of(connector.connect(url)) == server.port
    begun: list[None] = []
    monkeypatch.setattr(connector.silence, "begin", lambda: begun.append(None))
    assert port_of(connector.connect(url)) == server.port
    assert begun == []


def test_server_that_is_read_only_is_left_for_one_that_is_not(
    server: PostgresServer, tmp_path: Path
) -> None:
    standby = PostgresServer(tmp_path / "standby")
    try:
        with psycopg2.connect(url_of(standby)) as owner:
            owner.autocommit = True
            with owner.cursor() as cursor:
                cursor.execute("alter database postgres set default_transaction_read_only = on")
        url = url_of(server, standby.port, options="?target_session_attrs=read-write")
        assert port_of(Connector(SECONDS).connect(url)) == server.port
    finally:
        standby.stop()


class OldServer(PostgresServer):
    """A PostgreSQL 15, as Debian 12 has it."""

    def _command(self) -> list[str]:
        self._bin = OLD
        return super()._command()


@pytest.mark.slow
@pytest.mark.skipif(not OLD.exists(), reason="not run: PostgreSQL 15 is not installed here")
def test_postgresql_15_is_refused_in_one_sentence(tmp_path: Path) -> None:
    server = OldServer(tmp_path / "old")
    try:
        with pytest.raises(UnsupportedServer, match="PostgreSQL 16 or newer is needed"):
            Connector(SECONDS).connect(url_of(server))
        database = Database(server, "old", login="postgres").make()
        environment = {**os.environ, **GOOD, "SIGHTLINE_ENV": "development"}
        environment |= {**database.environment, "SIGHTLINE_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", "db", "upgrade"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        server.stop()
    assert done.returncode == 1
    assert done.stderr == "Error: PostgreSQL 16 or newer is needed, and this is 15\n"
