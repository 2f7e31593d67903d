"""The web servers that are measured: one process each, all pinned to the same core."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis
import requests

from bench import database
from bench.machine import Cores
from bench.peers import audit_table
from bench.peers.environment import ensure_python
from bench.peers.task import QUEUE
from tests.processes import Web, command_of, run_server, started

PEERS = Path(__file__).parent / "peers"
KEY = "bench:rules"
INSERTED, DELAYED = "bench_inserted", "bench_delayed"


@dataclass(frozen=True)
class Place:
    """Where servers run: their cores, their environment and the directory of their logs."""

    cores: Cores
    environment: Mapping[str, str]
    logs: Path

    @property
    def database(self) -> str:
        """The URL of the database, as the tables' owner."""
        return self.environment["DATABASE_OWNER_URL"]


@dataclass(frozen=True)
class RecordingPeer:
    """A peer that leaves a row for each answer."""

    web: Web
    count_rows: Callable[[], int]

    def count_answers(self) -> int:
        """Ask the peer how often it has answered; only the first call tells."""
        return int(requests.get(f"{self.web.url}/answers", timeout=30).text)


def run_product(place: Place) -> AbstractContextManager[Web]:
    return _run("web", command_of("web"), "/readyz", place)


def run_bare(place: Place, body: bytes) -> AbstractContextManager[Web]:
    """Flask that answers with `body` from Redis and does nothing else."""
    return _run_flask("bare", place, body)


@contextmanager
def run_own_insert(place: Place, body: bytes) -> Iterator[RecordingPeer]:
    """The bare Flask with an INSERT and a COMMIT of its own for each answer."""
    with (
        _table(place, INSERTED) as count_rows,
        _run_flask("own_insert", place, body, **_variables(place, INSERTED)) as web,
    ):
        yield RecordingPeer(web, count_rows)


@contextmanager
def run_delay(place: Place, body: bytes) -> Iterator[RecordingPeer]:
    """The bare Flask with a Celery task for each answer, and the worker that runs the tasks."""
    with (
        _table(place, DELAYED) as count_rows,
        run_task_worker(place, DELAYED, processes=2),
        _run_flask("delay", place, body, **_variables(place, DELAYED)) as web,
    ):
        yield RecordingPeer(web, count_rows)


def run_task_worker(place: Place, table: str, *, processes: int) -> AbstractContextManager[object]:
    """A Celery worker that inserts into `table`, a task and a COMMIT for each row."""
    command = ["celery", "--quiet", "-A", "bench.peers.task", "worker", "--queues", QUEUE]
    options = ["--concurrency", str(processes), "--without-gossip", "--without-mingle"]
    variables = {**place.environment, **_variables(place, table)}
    return started([*command, *options], variables, place.logs / "tasks.log")


def run_original(place: Place, body: bytes) -> AbstractContextManager[Web]:
    """The original stack with the rules of `body`."""
    rules = place.logs / "rules.json"
    rules.write_bytes(body)
    command = [str(ensure_python()), str(PEERS / "original.py")]
    return _run("original", command, "/rules", place, BENCH_RULES=str(rules))


def memory_mb(web: Web) -> float:
    """The memory of one worker: its proportional share where the system knows it."""
    full = _worker(web).memory_full_info()
    return float(getattr(full, "pss", full.rss)) / 2**20


def cpu_seconds(web: Web) -> float:
    """The CPU time that the worker has used: steadier than a rate on a machine with other load."""
    times = _worker(web).cpu_times()
    return float(times.user + times.system)


def _worker(web: Web) -> psutil.Process:
    itself = psutil.Process(web.process.pid)
    return (itself.children() or [itself])[0]


@contextmanager
def _table(place: Place, name: str) -> Iterator[Callable[[], int]]:
    """An audit table while the block runs, and a function that counts its rows."""
    database.run(place.database, audit_table.create(name))
    try:
        with database.counting(place.database, name) as count:
            yield count
    finally:
        database.run(place.database, f"drop table {name}")


def _variables(place: Place, table: str) -> dict[str, str]:
    return {"BENCH_DATABASE_URL": place.database, "BENCH_TABLE": table}


def _run_flask(
    name: str, place: Place, body: bytes, **variables: str
) -> AbstractContextManager[Web]:
    with redis.Redis.from_url(place.environment["REDIS_URL"]) as client:
        client.set(KEY, body)
    settings = str(PEERS / "gunicorn_settings.py")
    command = [sys.executable, "-m", "gunicorn", "--config", settings, f"bench.peers.{name}:app"]
    return _run(name, command, "/rules", place, BENCH_KEY=KEY, **variables)


def _run(
    name: str, command: list[str], ready: str, place: Place, **variables: str
) -> AbstractContextManager[Web]:
    environment = {**place.environment, **variables}
    return run_server(place.cores.pin_web(command), ready, environment, place.logs / f"{name}.log")
