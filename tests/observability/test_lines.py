"""The thread that writes the lines of requests."""

import json
import subprocess
import sys
import time
from datetime import datetime
from threading import Event
from typing import Any

import pytest

from webapp.observability import lines, logs
from webapp.observability.lines import LineWriter
from webapp.soon import Soon

PATIENCE = 30
START = Soon._start
"""Before tests/conftest.py has it replaced."""


@pytest.fixture(autouse=True)
def _with_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Soon, "_start", START)


class Log:
    """What was written, by whom it may be held up."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.may_go_on = Event()
        self.may_go_on.set()

    def __call__(self, text: str) -> None:
        assert self.may_go_on.wait(PATIENCE)
        self.written.append(text)

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + PATIENCE
        while len(found := "\n".join(self.written).splitlines()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return [json.loads(line) for line in found]


def writer(log: Log) -> LineWriter:
    return LineWriter(lambda line: logs.render_json(None, "info", line), log)


def test_a_line_holds_what_it_is_given_and_when_that_was() -> None:
    log = Log()
    writer(log)("request", status=200)
    [line] = log.wait_for(1)
    assert (line["event"], line["status"], line["level"]) == ("request", 200, "info")
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None


def test_all_are_written_in_their_order_and_many_at_once() -> None:
    log = Log()
    write = writer(log)
    for number in range(100):
        write("request", number=number)
    assert [line["number"] for line in log.wait_for(100)] == list(range(100))
    assert len(log.written) < 20
    write("request", number=100)
    assert log.wait_for(101)[-1]["number"] == 100


def test_a_reader_that_stalls_holds_up_nobody_and_takes_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "WAITING_MAX", 10)
    log = Log()
    log.may_go_on.clear()
    write, dropped = writer(log), lines.DROPPED._value.get()
    write("request", number=-1)
    while write._waiting.qsize():  # until the thread has it, and is held up
        time.sleep(0.01)
    for number in range(15):
        write("request", number=number)
    assert lines.DROPPED._value.get() == dropped + 5
    log.may_go_on.set()
    assert [line["number"] for line in log.wait_for(11)] == list(range(-1, 10))


def test_what_waits_is_written_when_the_process_ends() -> None:
    program = (
        "from webapp.observability import logs\n"
        "logs.line_writer('production')('request', status=200)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(ended.stderr)["status"] == 200
