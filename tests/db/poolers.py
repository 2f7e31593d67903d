"""PgBouncer, as `deploy/pgbouncer.ini` has it, in front of a test's own PostgreSQL."""

import os
import shutil
from collections.abc import Mapping
from configparser import ConfigParser
from pathlib import Path

import psycopg2
from sqlalchemy import make_url

from tests.processes import ROOT
from webapp.stack.servers import NOBODY_ID, Server, free_port, unprivileged

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
WHY_NOT = "PgBouncer is not installed: nothing was tried through a pooler"


class PgBouncer(Server):
    """A pooler with `size` connections for each login."""

    name = "pgbouncer"

    def __init__(
        self,
        directory: Path,
        target: str,
        passwords: Mapping[str, str],
        size: int,
        certificate: Path | None = None,
    ):
        """With a `certificate`, beside whose file its key is, clients have to use TLS."""
        super().__init__(directory, free_port())
        self._certificate = certificate
        self._target = make_url(target)
        self._passwords = dict(passwords)
        self._write(size)

    def url(self, behind: str) -> str:
        """The URL of a database as it is reached through this pooler."""
        through = make_url(behind).set(host="127.0.0.1", port=self.port)
        return through.render_as_string(hide_password=False)

    @property
    def _pid_file(self) -> Path:
        return self.directory / "pgbouncer.pid"

    def _write(self, size: int) -> None:
        """Write the deployed configuration, with the addresses and files of here."""
        parser = ConfigParser(interpolation=None)
        parser.read(ROOT / "deploy" / "pgbouncer.ini")
        parser["databases"] = {
            str(self._target.database): f"host={self._target.host} port={self._target.port}"
        }
        own = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_file": str(self.directory / "userlist.txt"),
            "pidfile": str(self._pid_file),
            "default_pool_size": str(size),
            **self._tls(),
        }
        parser["pgbouncer"].update(own)
        with (self.directory / "pgbouncer.ini").open("w") as file:
            parser.write(file)
        lines = [f'"{login}" "{password}"\n' for login, password in self._passwords.items()]
        (self.directory / "userlist.txt").write_text("".join(lines))
        if os.geteuid() == 0:
            for path in (self.directory, *self.directory.iterdir()):
                os.chown(path, NOBODY_ID, NOBODY_ID)

    def _tls(self) -> dict[str, str]:
        if self._certificate is None:
            return {}
        own = {"cert": self._certificate, "key": self._certificate.with_suffix(".key")}
        files = {name: shutil.copy(path, self.directory) for name, path in own.items()}
        return {
            "client_tls_sslmode": "require",
            **{f"client_tls_{name}_file": str(path) for name, path in files.items()},
        }

    def _command(self) -> list[str]:
        assert PROGRAM is not None
        return [*unprivileged(), PROGRAM, str(self.directory / "pgbouncer.ini")]

    def _answers(self) -> bool:
        login, password = next(iter(self._passwords.items()))
        try:
            psycopg2.connect(
                host="127.0.0.1",
                port=self.port,
                user=login,
                password=password,
                dbname=self._target.database,
            ).close()
        except psycopg2.OperationalError:
            return False
        return True
