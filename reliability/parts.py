"""Processes that are killed, stopped and started again while a run lasts."""

import os
import signal
import subprocess
import sysconfig
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import requests

from tests.processes import ROOT
from webapp.stack.servers import Server

STARTUP = 300.0
"""Seconds that a part may take to start on a busy machine, with all other parts starting too."""

GONE = 120.0
POLL = 0.05


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

    def stop(self) -> None:
        """End it in order, by SIGTERM."""
        self.resume()
        self._end(signal.SIGTERM)

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
        left = [process for process in tree if lives(process)]
        send(signal.SIGKILL, left)
        await_until("a killed process is still there", lambda: not any(map(lives, left)))


class ServerPart(Part):
    """A server of the development stack's kind."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        return self._server.process

    def start(self) -> None:
        self._server.start()


class ProcessPart(Part):
    """A process with a log. It has started once `answers` returns true."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        answers: Callable[[], bool] = lambda: True,
    ) -> None:
        self.log = log
        self._command = command
        self._environment = environment
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
        await_until(f"{self._command} does not start, see {self.log}", self._has_started)

    def _has_started(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-4000:]
            raise InstallationError(f"{self._command} has ended:\n{tail}")
        return self._answers()


def kill_child(child: psutil.Process) -> None:
    """Kill a part's process, and return once the part has seen its end: a process that waits for a
    busy disk ends only after that, and what its end causes would come when all seems well."""
    send(signal.SIGKILL, [child])
    await_until("a killed process is still there", lambda: not child.is_running())


def send(wanted: signal.Signals, processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(wanted)


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def is_ok(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def is_wholly_ready(url: str) -> bool:
    """Whether nothing is amiss, not even what requests are served without."""
    try:
        return bool(requests.get(url, timeout=5).json()["status"] == "ok")
    except requests.RequestException:
        return False


def await_until(otherwise: str, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STARTUP
    while not reached():
        if time.monotonic() > deadline:
            raise InstallationError(otherwise)
        time.sleep(POLL)
