"""What a process has counted stays counted when it has ended, and its files go."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from webapp.observability import metrics

COUNTING = """
import sys, os, signal
from prometheus_client import Counter, Gauge, Histogram
Counter("things_total", "Things.", ("kind",)).labels(sys.argv[1]).inc(int(sys.argv[2]))
Histogram("seconds", "Seconds.", buckets=(1.0,)).observe(0.5)
Gauge("held", "Held.", multiprocess_mode="livesum").set(7)
print("counted", flush=True)
if sys.argv[3] == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return tmp_path


@contextmanager
def counting(kind: str, times: int, then: str) -> Iterator[None]:
    """Run a process that counts, and keep it as long as it lives."""
    process = subprocess.Popen(
        [sys.executable, "-c", COUNTING, kind, str(times), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"counted\n"
    if then == "dies":
        process.wait()
    try:
        yield
    finally:
        process.communicate()


def read() -> dict[str, float]:
    lines = metrics.read().decode().splitlines()
    values = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in values}


def test_what_ended_processes_have_counted_is_kept_in_one_file(directory: Path) -> None:
    for times in (1, 2, 3):
        with counting("a", times, "dies"):
            pass
    with counting("b", 5, "lives"):
        first, second = read(), read()
        kept = {path.name for path in directory.glob("*.db")}
    assert first == second
    assert first['things_total{kind="a"}'] == 6
    assert first['things_total{kind="b"}'] == 5
    assert first["seconds_count"] == 4
    assert first["held"] == 7  # the one that lives
    assert len(kept) == 5  # two of all that have ended, three of the one that lives
    assert {"counter_ended.db", "histogram_ended.db"} <= kept


def test_more_processes_that_end_later_are_added(directory: Path) -> None:
    for _ in range(3):
        with counting("a", 2, "dies"):
            read()
    assert read()['things_total{kind="a"}'] == 6


def test_readers_at_once_count_each_process_once(directory: Path) -> None:
    for _ in range(4):
        with counting("a", 1, "dies"):
            pass
    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(lambda _: read()['things_total{kind="a"}'], range(16)))
    assert seen == [4.0] * 16


def test_process_of_somebody_else_counts_as_running(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counting("a", 1, "dies"):
        pass
    [before] = directory.glob("counter_*.db")

    def _not_ours(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", _not_ours)
    assert read()['things_total{kind="a"}'] == 1
    assert before.exists()
