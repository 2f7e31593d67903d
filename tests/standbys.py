"""A standby of a test's PostgreSQL, that can be held back and promoted."""

import os
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

from tests.audit.receipts import wait_for
from webapp.stack.servers import NOBODY_ID, PostgresServer, free_port, unprivileged


class Standby(PostgresServer):
    """A copy of a primary, which receives its changes asynchronously while both run."""

    def __init__(self, directory: Path, primary: PostgresServer) -> None:
        super().__init__(directory, free_port(), primary._password)
        self._primary = primary
        self._data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(self._data, NOBODY_ID, NOBODY_ID)
        command = [str(self._bin / "pg_basebackup"), "-D", str(self._data), "-c", "fast", "-R"]
        place = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres", "--no-sync"]
        subprocess.run(
            [*unprivileged(), *command, *place],
            env=os.environ | {"PGPASSWORD": primary._password},
            check=True,
        )

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser."""
        return run_as_superuser(self, statement)

    def catch_up(self) -> None:
        """Wait until it has everything that the primary has now."""
        [(now,)] = run_as_superuser(self._primary, "select pg_current_wal_flush_lsn()")
        has = f"select pg_last_wal_replay_lsn() >= '{now}'"
        wait_for(lambda: self.run(has) == [(True,)])

    def hold_back(self) -> None:
        """Let it receive nothing more."""
        self.run("alter system set primary_conninfo = ''")
        self.run("select pg_reload_conf()")
        wait_for(lambda: self.run("select count(*) from pg_stat_wal_receiver") == [(0,)])

    def promote(self) -> None:
        """Let it become a primary, at the address of the dead one that it has followed."""
        assert self.run("select pg_promote()") == [(True,)]
        self.stop()
        self.port = self._primary.port
        self.start()


def run_as_superuser(server: PostgresServer, statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(server.url("postgres", server._password))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
