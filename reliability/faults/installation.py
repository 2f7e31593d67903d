"""The installation that faults break: PostgreSQL, Redis, and the processes of the Procfile."""

import os
import signal
import subprocess
import sysconfig
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import psutil
import requests
from flask import Flask
from redis import Redis

from reliability.faults.clock import WallClock, find_wall_clock
from reliability.faults.disk import Disk, journal_disk
from tests.applications import let_staff_access
from tests.processes import ROOT, command_of, no_settings_of_the_caller
from webapp import create_app
from webapp.db import migrate
from webapp.extensions import db
from webapp.settings import read_settings
from webapp.stack.home import environment_of, open_stack, running
from webapp.stack.servers import Server, free_port

WEB_CONCURRENCY = "2"
STARTUP = 300.0
"""Seconds that a part may take to start on a busy machine, with all other parts starting too."""

GONE = 120.0
POLL = 0.05
ANSWERS = 8
"""Requests in a row that have to be answered well, by whichever web process takes them."""


class InstallationError(Exception):
    """A part cannot be brought into the state that it should have, so the run proves nothing."""


class Part(ABC):
    """A process and all that it has started, which can be killed, stopped and started again."""

    @abstractmethod
    def start(self) -> None: ...

    @property
    @abstractmethod
    def process(self) -> subprocess.Popen[bytes] | None: ...

    @property
    def tree(self) -> list[psutil.Process]:
        """The process first, then what it has started; empty if it is dead."""
        process = self.process
        if process is None or process.poll() is not None:
            return []
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(process.pid)
            return [main, *main.children(recursive=True)]
        return []

    @property
    def children(self) -> list[psutil.Process]:
        return self.tree[1:]

    def kill(self) -> None:
        """Kill all of it by SIGKILL, and return once nothing of it is left."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        send(signal.SIGSTOP, self.tree)

    def resume(self) -> None:
        send(signal.SIGCONT, self.tree)

    def restart(self) -> None:
        """Start it if it is dead, and continue it if it is stopped."""
        if self.tree:
            self.resume()
        else:
            self.start()

    def _end(self, first: signal.Signals) -> None:
        tree = self.tree
        send(first, tree[:1])
        if first is signal.SIGKILL:
            send(first, tree)
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(GONE)
        left = [process for process in tree if _lives(process)]
        send(signal.SIGKILL, left)
        _await("a killed process is still there", lambda: not any(map(_lives, left)))


class ServerPart(Part):
    """One of the development stack's servers."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        return self._server.process

    def start(self) -> None:
        self._server.start()


class ProcessPart(Part):
    """One of the Procfile's processes. It has started once `answers` returns true."""

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str],
        log: Path,
        answers: Callable[[], bool] = lambda: True,
    ) -> None:
        self.log = log
        self._command = command_of(name)
        self._environment = environment_of(name, environment)
        self._answers = answers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        return self._process

    def start(self) -> None:
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=os.environ | {"PATH": path, **self._environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        _await(f"{self._command} does not start, see {self.log}", self._has_started)

    def stop(self) -> None:
        """End it in order, by SIGTERM."""
        self.resume()
        self._end(signal.SIGTERM)

    def _has_started(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-4000:]
            raise InstallationError(f"{self._command} has ended:\n{tail}")
        return self._answers()


@dataclass(frozen=True)
class Installation:
    app: Flask
    """Reads the product's database, and takes no requests."""
    environment: Mapping[str, str]
    url: str
    postgres: ServerPart
    redis: ServerPart
    broker: Redis
    web: ProcessPart
    worker: ProcessPart
    beat: ProcessPart
    journal: Disk
    clock: WallClock | None
    """`None` if libfaketime is not installed, or not wanted."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.postgres, self.redis, self.web, self.worker, self.beat)

    def restore(self) -> None:
        """Repair everything, so that all parts run again."""
        if self.clock is not None:
            self.clock.set(0)
        self.journal.free()
        for part in self.parts:
            part.restart()

    def is_well(self) -> bool:
        """Ask often enough that each of the web processes has answered, or one that still suffers
        would be taken for well."""
        return all(_is_wholly_ready(f"{self.url}/readyz") for _ in range(ANSWERS))

    def await_well(self) -> None:
        _await(f"{self.url}/readyz is not ok", self.is_well)


@contextmanager
def running_installation(home: Path, *, as_deployed: bool = False) -> Iterator[Installation]:
    """Run an installation on servers of its own, and leave nothing of it behind.

    `as_deployed` it has its rate limits, and a clock that nobody can move: libfaketime takes time.
    """
    stack = open_stack(home, durable=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **stack.environment,
        "SIGHTLINE_HOME": str(home),
        "JOURNAL_DIR": str(home / "journal"),
        "WEB_CONCURRENCY": WEB_CONCURRENCY,
        "PORT": str(port),
        "PROMETHEUS_MULTIPROC_DIR": str(home / "metrics"),
        "TMPDIR": str(home),  # killed processes clear nothing away
        "RATE_LIMIT_DENIED": "0",  # the load is refused all the time, to see that recorded
    }
    (home / "metrics").mkdir()
    clock = None if as_deployed else find_wall_clock(home / "clock")
    with (
        ExitStack() as cleaning,
        no_settings_of_the_caller(limited=as_deployed),
        running(stack),
        journal_disk(home / "journal") as journal,
    ):
        with mock.patch.dict(os.environ, environment):
            settings = read_settings()
        migrate.upgrade(settings)
        app = create_app(settings)
        let_staff_access(app)
        web_environment = {**environment, **(clock.environment if clock else {})}
        web = ProcessPart(
            "web", web_environment, home / "web.log", lambda: _is_ok(f"{url}/healthz")
        )
        worker = ProcessPart("worker", environment, home / "worker.log")
        beat = ProcessPart("beat", environment, home / "beat.log")
        for part in (worker, beat, web):
            cleaning.callback(part.kill)
            part.start()
        installation = Installation(
            app=app,
            environment=environment,
            url=url,
            postgres=ServerPart(stack.postgres),
            redis=ServerPart(stack.redis),
            broker=stack.redis.client,
            web=web,
            worker=worker,
            beat=beat,
            journal=journal,
            clock=clock,
        )
        installation.await_well()
        try:
            yield installation
        finally:
            # Stopped servers would not end in order, and killed ones have left no process.
            installation.postgres.resume()
            installation.redis.resume()
            with installation.app.app_context():
                db.engine.dispose()


def kill_child(child: psutil.Process) -> None:
    """Kill a part's process, and return once the part has seen its end: a process that waits for a
    busy disk ends only after that, and what its end causes would come when all seems well."""
    send(signal.SIGKILL, [child])
    _await("a killed process is still there", lambda: not child.is_running())


def send(wanted: signal.Signals, processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(wanted)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def _is_ok(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _is_wholly_ready(url: str) -> bool:
    """Whether nothing is amiss, not even what requests are served without."""
    try:
        return bool(requests.get(url, timeout=5).json()["status"] == "ok")
    except requests.RequestException:
        return False


def _await(otherwise: str, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STARTUP
    while not reached():
        if time.monotonic() > deadline:
            raise InstallationError(otherwise)
        time.sleep(POLL)
