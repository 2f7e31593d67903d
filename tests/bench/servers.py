"""Web servers under measure: the same gunicorn for the product and its limit, uvicorn beside."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from tests.bench.machine import Cores

ROOT = Path(__file__).parents[2]
WORKERS = 1
THREADS = 8
STARTUP = 60


class NotStarted(Exception):
    pass


@dataclass(frozen=True)
class Place:
    """Where servers run: their cores, their environment, and the directory of their logs."""

    cores: Cores
    environment: Mapping[str, str]
    logs: Path


@dataclass(frozen=True)
class Server:
    url: str
    process: psutil.Process

    def memory_mb(self) -> float:
        """Of one worker: its proportional share where the system tells, else what it has mapped."""
        worker = (self.process.children() or [self.process])[0]
        full = worker.memory_full_info()
        return float(getattr(full, "pss", full.rss)) / 2**20


@contextmanager
def gunicorn(application: str, ready: str, place: Place) -> Iterator[Server]:
    """`ready` is a path that answers 200 once the application is up."""
    port = _free_port()
    options = ["--worker-class", "gthread", "--keep-alive", "30", "--bind", f"127.0.0.1:{port}"]
    sizes = ["--workers", str(WORKERS), "--threads", str(THREADS)]
    command = [sys.executable, "-m", "gunicorn", *options, *sizes, application]
    with _started(command, f"http://127.0.0.1:{port}", ready, place) as server:
        yield server


@contextmanager
def uvicorn(python: Path, application: str, ready: str, place: Place) -> Iterator[Server]:
    port = _free_port()
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--port", str(port)]
    command = [str(python), "-m", "uvicorn", *options, application]
    with _started(command, f"http://127.0.0.1:{port}", ready, place) as server:
        yield server


@contextmanager
def _started(command: list[str], url: str, ready: str, place: Place) -> Iterator[Server]:
    name = command[-1].partition(":")[0]
    with (place.logs / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            place.cores.pin_web(command),
            cwd=ROOT,
            env=os.environ | dict(place.environment),
            stdout=log,
            stderr=log,
        )
    try:
        _await(process, url + ready, log.name)
        yield Server(url, psutil.Process(process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _await(process: subprocess.Popen[bytes], url: str, log: str) -> None:
    deadline = time.monotonic() + STARTUP
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if requests.get(url, timeout=STARTUP).status_code == 200:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise NotStarted(f"{url} does not answer 200; see {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
