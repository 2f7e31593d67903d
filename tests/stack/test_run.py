"""`make run` for a new user: an empty directory, a ready line, Ctrl-C, and a second run."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests
from sqlalchemy import make_url

from webapp.stack.servers import RedisServer, free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATIENCE = 180


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    home: Path
    said: tuple[str, ...] = ()
    """The lines that were printed until it was ready."""

    @property
    def demo(self) -> dict[str, dict[str, str]]:
        content: dict[str, dict[str, str]] = json.loads((self.home / "demo.json").read_text())
        return content

    def list_rules(self, account: str) -> requests.Response:
        token = self.demo["tokens"][account]
        url = f"{self.demo['base_url']}/admin/api/rules"
        return requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE)

    def family(self) -> list[psutil.Process]:
        """A process and all its descendants."""
        itself = psutil.Process(self.process.pid)
        return [itself, *itself.children(recursive=True)]


def _start(home: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "webapp.stack"],
        cwd=ROOT,
        env=os.environ | {"SIGHTLINE_HOME": str(home), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@contextmanager
def run(home: Path, **environment: str) -> Iterator[Running]:
    """Run `make run` until it is ready. Ctrl-C ends it, and nothing of it may be left."""
    process = _start(home, PORT=str(free_port()), **environment)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "Sightline is ready" in line:
            break
    assert "Sightline is ready" in said[-1], "".join(said)
    running = Running(process, home, tuple(said))
    family = running.family()
    yield running
    process.send_signal(signal.SIGINT)
    said.append(process.communicate(timeout=PATIENCE)[0])
    assert process.returncode == 0, "".join(said)
    _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    assert alive == []


def logins_in(running: Running) -> dict[str, set[str]]:
    """The logins whose URLs are in the environment of the servers' processes."""
    found: dict[str, set[str]] = {}
    for process in running.family():
        with suppress(psutil.NoSuchProcess):  # the server of a connection that has ended
            words = " ".join([*process.cmdline(), ""])
            name = next((n for n in ("gunicorn", " worker ", " beat ") if n in words), "").strip()
            if name:
                urls = [value for key, value in process.environ().items() if "DATABASE" in key]
                found.setdefault(name, set()).update(str(make_url(url).username) for url in urls)
    return found


STEPS = (
    "Starting Redis …",
    "Starting PostgreSQL …",
    "Migrating the database …",
    "Filling in the demo …",
    "Starting the web server, the worker and the scheduler …",
)


def test_second_run_has_the_data_of_the_first(tmp_path: Path) -> None:
    home = tmp_path / "not there yet"
    with run(home, SIGHTLINE_ENV="production") as first:
        steps = [line.strip() for line in first.said if line.strip() in STEPS]
        assert steps == list(STEPS)
        answer = first.list_rules("acme-member")
        assert answer.status_code == 200
        total = answer.json()["total"]
        assert total > 50
        tokens = first.demo["tokens"]
        for name in ("demo.json", "stack.env", "stack.secrets"):
            assert (home / name).stat().st_mode & 0o777 == 0o600
        assert logins_in(first) == {
            "gunicorn": {"sightline_web"},
            "worker": {"sightline_worker"},
            "beat": {"sightline_worker"},
        }
    with run(home) as second:
        assert second.demo["tokens"] == tokens
        assert second.list_rules("acme-member").json()["total"] == total


def test_servers_that_a_killed_run_left_are_ended_by_the_next_run(tmp_path: Path) -> None:
    killed = _run_and_kill(tmp_path)
    servers = [process for process in killed if process.is_running()]
    assert servers
    with run(tmp_path) as again:
        assert again.list_rules("acme-member").status_code == 200
        _, alive = psutil.wait_procs(servers, timeout=PATIENCE)
        assert alive == []


def _run_and_kill(home: Path) -> list[psutil.Process]:
    """Kill a run, but not its servers, as a crash of the machine's session would; returns all."""
    process = _start(home, PORT=str(free_port()), TMPDIR=str(home))
    assert process.stdout is not None
    while "Sightline is ready" not in process.stdout.readline():
        assert process.poll() is None
    family = Running(process, home).family()
    for member in family:
        with suppress(psutil.NoSuchProcess):  # ended by its parent's end, or a connection's server
            if member.name() not in ("postgres", "redis-server"):
                member.kill()
    process.communicate(timeout=PATIENCE)
    return family


@pytest.mark.parametrize("port", ["0", "eighty", "70000"])
def test_port_that_is_not_a_number_is_refused(tmp_path: Path, port: str) -> None:
    process = _start(tmp_path, PORT=port)
    assert "must be a number from 1 to 65535" in process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 1


def test_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        process = _start(tmp_path, PORT=port)
        assert f"port {port} is in use" in process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == 1


def test_server_that_the_caller_names_is_used_and_not_started(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis", free_port())
    redis.start()
    try:
        with run(tmp_path / "home", REDIS_URL=redis.url) as running:
            assert running.list_rules("acme-member").status_code == 200
            names = set()
            for process in running.family():
                with suppress(psutil.NoSuchProcess):
                    names.add(process.name())
            assert "redis-server" not in names
            assert "postgres" in names
            assert redis.client.keys("sightline:*")
    finally:
        redis.stop()
