"""The product's own processes, as the Procfile starts them."""

import os
import shlex
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import requests

from webapp.settings import VARIABLES
from webapp.stack.home import LOGIN_URLS, SIGNING_KEYS, environment_of
from webapp.stack.servers import free_port

ROOT = Path(__file__).parents[1]
STARTUP = 300
PATIENCE = 120
DEPRECATED = "error::DeprecationWarning"
"""Warnings are errors in the product's processes, as they are in the tests' own."""

RATE_LIMITS = tuple(
    f"RATE_LIMIT_{name}" for name in ("ADDRESS", "FAILURES", "PRINCIPAL", "TENANT", "DENIED")
)
"""Out of reach in tests and measurements, but for the tests of limits."""

SETTINGS = {
    *VARIABLES,
    *LOGIN_URLS.values(),
    *SIGNING_KEYS.values(),
    *("PORT", "WEB_CONCURRENCY"),
}
"""All variables that the product reads."""


@contextmanager
def no_settings_of_the_caller(*, limited: bool = False) -> Iterator[None]:
    """Hide the settings of the calling shell from the product.

    Its rate limits are lifted, unless it is to be `limited` as it is by default.
    """
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    lifted = {} if limited else dict.fromkeys(RATE_LIMITS, "1000000")
    with mock.patch.dict(os.environ, kept | lifted, clear=True):
        yield


@dataclass(frozen=True)
class Web:
    url: str
    process: subprocess.Popen[bytes]
    log: Path


def command_of(name: str, root: Path = ROOT) -> list[str]:
    """The Procfile's command of a process."""
    lines = (root / "Procfile").read_text().splitlines()
    commands = dict(line.split(": ", 1) for line in lines)
    return shlex.split(commands[name])


@contextmanager
def started(
    command: list[str], environment: Mapping[str, str], log: Path, root: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process; at the end, end it and all its descendants."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=os.environ | {"PATH": path, "PYTHONWARNINGS": DEPRECATED, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        finally:  # also if the wait is interrupted
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def run_worker(
    environment: Mapping[str, str], log: Path, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker. `options` come after the Procfile's, and win."""
    own = environment_of("worker", environment)
    with started([*command_of("worker"), *options], own, log) as process:
        _await(process, log, lambda: b"ready." in log.read_bytes())
        yield process


@contextmanager
def run_web(environment: Mapping[str, str], log: Path, root: Path = ROOT) -> Iterator[Web]:
    """Run web processes, once they are ready: of this version, or of another one in `root`."""
    with run_server(command_of("web", root), "/readyz", environment, log, root) as web:
        yield web


@contextmanager
def run_server(
    command: list[str], ready: str, environment: Mapping[str, str], log: Path, root: Path = ROOT
) -> Iterator[Web]:
    """Run a web server on the PORT of its environment, once the path `ready` answers 200."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    own = environment_of("web", environment)
    with started(command, {**own, "PORT": str(port)}, log, root) as process:
        _await(process, log, lambda: _answers(url + ready))
        yield Web(url, process, log)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _await(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STARTUP
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.05)
