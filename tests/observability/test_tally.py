"""What requests count is in Prometheus' numbers a moment later, all of it and once."""

import os
import subprocess
import sys
import time
from threading import Thread

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from tests.observability.test_lines import START
from webapp.soon import Soon
from webapp.tally import MetricsBuffer

PATIENCE = 30


@pytest.fixture(autouse=True)
def _with_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Soon, "_start", START)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def count_in(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(name, labels) or 0.0


def test_many_threads_lose_no_count(registry: CollectorRegistry) -> None:
    tally = MetricsBuffer()
    accesses = Counter("accesses", "…", ("by",), registry=registry)
    seconds = Histogram("seconds", "…", registry=registry, buckets=(1.0,))

    def work() -> None:
        for number in range(1000):
            tally.count(accesses.labels(str(number % 2)))
            tally.observe(seconds, 0.5 + number % 2)

    threads = [Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tally.flush()
    assert count_in(registry, "accesses_total", by="0") == count_in(
        registry, "accesses_total", by="1"
    )
    assert count_in(registry, "accesses_total", by="0") == 4000
    assert count_in(registry, "seconds_count") == 8000
    assert count_in(registry, "seconds_bucket", le="1.0") == 4000
    assert count_in(registry, "seconds_sum") == 8000


def test_nobody_has_to_ask(registry: CollectorRegistry) -> None:
    accesses = Counter("accesses", "…", registry=registry)
    MetricsBuffer().count(accesses)
    deadline = time.monotonic() + PATIENCE
    while not count_in(registry, "accesses_total"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_of_a_fork_adds_its_own(registry: CollectorRegistry) -> None:
    accesses, tally = Counter("accesses", "…", registry=registry), MetricsBuffer()
    tally.count(accesses)
    tally.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        tally.count(accesses)
        deadline = time.monotonic() + PATIENCE
        while count_in(registry, "accesses_total") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.write(writer, b"%d" % count_in(registry, "accesses_total"))
        os._exit(0)
    assert os.read(reader, 9) == b"2"
    assert os.waitpid(child, 0)[1] == 0


def test_what_fails_once_is_done_the_next_time() -> None:
    done: list[bool] = []

    def do() -> None:
        done.append(True)
        if len(done) == 1:
            raise OSError("no room for numbers")

    soon = Soon(do, "test")
    for times in (1, 2):
        soon()
        deadline = time.monotonic() + PATIENCE
        while len(done) < times:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_what_was_counted_last_is_added_when_the_process_ends() -> None:
    program = (
        "import atexit\n"
        "from prometheus_client import REGISTRY, Counter\n"
        "from webapp.tally import tally\n"
        "atexit.register(lambda: print(REGISTRY.get_sample_value('accesses_total')))\n"
        "tally.count(Counter('accesses', '…'))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "1.0\n"
