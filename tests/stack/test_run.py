"""`make run` for a new user: an empty directory, a ready line, a second run, and Ctrl-C."""

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

pytestmark = pytest.mark.slow(seconds=9)

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


def _said_until_ready(process: subprocess.Popen[str]) -> tuple[str, ...]:
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if "Sightline is ready" in line:
            return tuple(said)
    raise AssertionError("".join(said))


@contextmanager
def run(home: Path, **environment: str) -> Iterator[Running]:
    """Run `make run` until it is ready. Ctrl-C ends it, and nothing of it may be left."""
    process = _start(home, PORT=str(free_port()), **environment)
    running = Running(process, home, _said_until_ready(process))
    family = running.family()
    yield running
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, "".join([*running.said, rest])
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


@dataclass(frozen=True)
class Killed:
    """What the first run of a home did until it was killed."""

    home: Path
    steps: list[str]
    modes: set[int]
    """Of the files that only its user may read."""
    logins: dict[str, set[str]]
    tokens: dict[str, str]
    total: int
    servers: list[psutil.Process]
    """The servers that it left, as a crash of the machine's session would."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    home = tmp_path_factory.mktemp("first") / "not there yet"
    environment = {"PORT": str(free_port()), "SIGHTLINE_ENV": "production"}
    process = _start(home, TMPDIR=str(home.parent), **environment)
    running = Running(process, home, _said_until_ready(process))
    answer = running.list_rules("acme-member")
    assert answer.status_code == 200
    files = [home / name for name in ("demo.json", "stack.env", "stack.secrets")]
    left = Killed(
        home,
        steps=[line.strip() for line in running.said if line.strip() in STEPS],
        modes={file.stat().st_mode & 0o777 for file in files},
        logins=logins_in(running),
        tokens=running.demo["tokens"],
        total=answer.json()["total"],
        servers=_kill_all_but_servers(running),
    )
    yield left
    for server in left.servers:
        with suppress(psutil.NoSuchProcess):
            server.kill()


def _kill_all_but_servers(running: Running) -> list[psutil.Process]:
    servers = []
    for member in running.family():
        with suppress(psutil.NoSuchProcess):  # ended by its parent's end, or a connection's server
            if member.name() in ("postgres", "redis-server"):
                servers.append(member)
            else:
                member.kill()
    running.process.communicate(timeout=PATIENCE)
    return servers


def test_first_run_makes_everything_and_keeps_its_secrets(killed: Killed) -> None:
    assert killed.steps == list(STEPS)
    assert killed.total > 50
    assert killed.modes == {0o600}
    assert killed.logins == {
        "gunicorn": {"sightline_web"},
        "worker": {"sightline_worker"},
        "beat": {"sightline_worker"},
    }


def test_next_run_has_the_data_of_a_killed_one_and_ends_its_servers(killed: Killed) -> None:
    assert [server for server in killed.servers if server.is_running()] != []
    with run(killed.home) as second:
        assert second.demo["tokens"] == killed.tokens
        assert second.list_rules("acme-member").json()["total"] == killed.total
        _, alive = psutil.wait_procs(killed.servers, timeout=PATIENCE)
        assert alive == []


def test_server_that_the_caller_names_is_used_and_not_started(
    killed: Killed, tmp_path: Path
) -> None:
    redis = RedisServer(tmp_path / "redis", free_port())
    redis.start()
    try:
        with run(killed.home, REDIS_URL=redis.url) as running:
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
