"""The web servers under measure: one process each, on a core that nothing else is on."""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis

from bench.machine import Cores
from bench.peers.environment import ensure_python
from tests.processes import Web, command_of, run_server

PEERS = Path(__file__).parent / "peers"
BARE_KEY = "bench:rules"


@dataclass(frozen=True)
class Place:
    """Where servers run: their cores, their environment, and the directory of their logs."""

    cores: Cores
    environment: Mapping[str, str]
    logs: Path


def run_product(place: Place) -> AbstractContextManager[Web]:
    return _run("web", command_of("web"), "/readyz", place)


def run_bare(place: Place, body: bytes) -> AbstractContextManager[Web]:
    """Flask with `body` from Redis, under the product's gunicorn."""
    with redis.Redis.from_url(place.environment["REDIS_URL"]) as client:
        client.set(BARE_KEY, body)
    settings = str(PEERS / "gunicorn_settings.py")
    command = [sys.executable, "-m", "gunicorn", "--config", settings, "bench.peers.bare:app"]
    return _run("bare", command, "/rules", place, BENCH_KEY=BARE_KEY)


def run_original(place: Place, body: bytes) -> AbstractContextManager[Web]:
    """The original stack with the rules of `body`."""
    rules = place.logs / "rules.json"
    rules.write_bytes(body)
    command = [str(ensure_python()), str(PEERS / "original.py")]
    return _run("original", command, "/rules", place, BENCH_RULES=str(rules))


def memory_mb(web: Web) -> float:
    """Of one worker: its proportional share where the system tells, else what it has mapped."""
    full = _worker(web).memory_full_info()
    return float(getattr(full, "pss", full.rss)) / 2**20


def cpu_seconds(web: Web) -> float:
    """What the worker has used until now: steadier than a rate where others load the machine."""
    times = _worker(web).cpu_times()
    return float(times.user + times.system)


def _worker(web: Web) -> psutil.Process:
    itself = psutil.Process(web.process.pid)
    return (itself.children() or [itself])[0]


def _run(
    name: str, command: list[str], ready: str, place: Place, **variables: str
) -> AbstractContextManager[Web]:
    environment = {**place.environment, **variables}
    return run_server(place.cores.pin_web(command), ready, environment, place.logs / f"{name}.log")
