"""PostgreSQL on two hosts: a primary and its standby, and an address that goes with the primary.

What keepalived and a failover manager do in production, the run does itself, so that it chooses the
moment: it ends the old primary, promotes the standby, and moves the address.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

from reliability.hosts.host import Host
from reliability.hosts.network import ADDRESSES
from reliability.parts import ServerPart, await_until
from webapp.stack.servers import DATABASE, NOBODY_ID, PostgresServer, unprivileged

NAME = "db.internal"
"""The database's name, as deploy/pgbouncer.ini has it."""

ADDRESS = str(ADDRESSES[200])
PORT = 5432
REPLICATOR = "replicator"
SUPERUSER = "postgres"
SETTINGS = {
    "max_connections": "100",
    "wal_keep_size": "256MB",
    "max_wal_size": "256MB",
    "wal_sender_timeout": "4s",
    "wal_receiver_timeout": "4s",
    "wal_retrieve_retry_interval": "500ms",
}
HBA = "host {database} {user} {network} scram-sha-256\n"
_HAS_REACHED = (
    "select coalesce(min(flush_lsn) >= %s::pg_lsn, false) from pg_stat_replication"
    " where state = 'streaming' and application_name like 'pg-%%'"
)


class HostedPostgres(PostgresServer):
    """PostgreSQL on a host, reachable from all of them."""

    def __init__(self, host: Host, password: str) -> None:
        self.host = host
        self.secret = password
        super().__init__(host.disk / "postgres", PORT, password)
        self.part = ServerPart(self)

    def url(self, user: str, password: str, database: str = DATABASE) -> str:
        return f"postgresql://{user}:{password}@{self.host.address}:{PORT}/{database}"

    @property
    def data(self) -> Path:
        return self._data

    def _command(self) -> list[str]:
        started = ["*" if word == "127.0.0.1" else word for word in super()._command()]
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        return [*self.host.inside, *started, *settings]

    def _init(self) -> None:
        super()._init()
        with (self._data / "pg_hba.conf").open("a") as file:
            for database, user in (("all", "all"), ("replication", REPLICATOR)):
                file.write(HBA.format(database=database, user=user, network=ADDRESSES))

    def ask(self, statement: str, values: tuple[Any, ...] = ()) -> Any:
        """Run a statement as the superuser, and return the first value."""
        with closing(psycopg2.connect(self.url(SUPERUSER, self.secret, "postgres"))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchone()[0] if cursor.description else None  # type: ignore[index]  # it has a row

    def copy(self, source: "HostedPostgres", to: Path, *options: str) -> None:
        """Take a base backup of a running server, from this host."""
        shutil.rmtree(to, ignore_errors=True)
        conninfo = f"host={source.host.address} port={PORT} user={REPLICATOR}"
        command = [
            *(*self.host.inside, *unprivileged(), str(self._bin / "pg_basebackup")),
            *("-D", str(to), "-d", f"{conninfo} application_name={self.host.name}"),
            *("--checkpoint=fast", "--no-sync", *options),
        ]
        environment = os.environ | {"PGPASSWORD": self.secret}
        subprocess.run(command, env=environment, check=True, capture_output=True)

    def replace_data(self, backup: Path) -> None:
        """Put a base backup in the place of what there is."""
        shutil.rmtree(self._data, ignore_errors=True)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        subprocess.run(["cp", "-a", str(backup), str(self._data)], check=True)
        shutil.chown(self._data, NOBODY_ID, NOBODY_ID)


class Database:
    """The primary, its standby, and the address of the database."""

    def __init__(self, servers: tuple[HostedPostgres, HostedPostgres], clients: Iterable[Host]):
        self.primary, self.standby = servers
        self._clients = tuple(clients)
        """The hosts that reach the database by its address."""

    def start(self, owner_password: str, logins: dict[str, str]) -> None:
        """Make the database and its standby."""
        self.primary.start()
        self.primary.ensure_database(owner_password, logins=logins)
        made = f"create role {REPLICATOR} login replication password '{self.primary.secret}'"
        self.primary.ask(made)
        self._take_address()
        self.rebuild_standby()

    def promote(self) -> None:
        """Make the standby the primary. The old one is dead for good, and loses its data."""
        self.primary.part.kill()
        self.primary.host.run("ip", "address", "del", f"{ADDRESS}/32", "dev", "eth0")
        self.standby.ask("select pg_promote(true, 120)")
        self.primary, self.standby = self.standby, self.primary
        self._take_address()
        self.be_synchronous(wanted=False)  # there is no standby, and nobody could commit

    def rebuild_standby(self) -> None:
        """Make a standby of the primary's data, in place of what its host has."""
        self.standby.part.kill()
        self.standby.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.standby.copy(self.primary, self.standby.data, "--write-recovery-conf")
        self.standby.start()
        self.await_standby()

    def be_synchronous(self, *, wanted: bool) -> None:
        """Have commits wait for the standby, or not."""
        names = "*" if wanted else ""
        self.primary.ask(f"alter system set synchronous_standby_names = '{names}'")
        self.primary.ask("select pg_reload_conf()")
        if wanted:
            await_until("the standby is not synchronous", self._is_synchronous)

    def await_standby(self) -> None:
        """Wait until the standby has all that the primary has now."""
        reached = self.primary.ask("select pg_current_wal_lsn()")
        await_until(
            "the standby does not catch up",
            lambda: bool(self.primary.ask(_HAS_REACHED, (reached,))),
        )

    def restore(self, backup: Path) -> None:
        """Put the whole database back to a base backup, and make the standby anew."""
        self.standby.part.kill()
        self.primary.part.kill()
        self.primary.replace_data(backup)
        self.primary.start()
        self.be_synchronous(wanted=False)

    def _is_synchronous(self) -> bool:
        state = "select coalesce(bool_or(sync_state = 'sync'), false) from pg_stat_replication"
        return bool(self.primary.ask(state))

    def _take_address(self) -> None:
        """Give the primary's host the database's address, and have clients look for it anew."""
        self.primary.host.run("ip", "address", "add", f"{ADDRESS}/32", "dev", "eth0")
        flush = ("ip", "neighbour", "flush", "to", ADDRESS)
        subprocess.run(flush, check=True)
        for client in self._clients:
            client.run(*flush)
