"""What the lines of a log say: one for what happened, in one form, as urgent as it is."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask, Response
from flask.testing import FlaskClient
from sqlalchemy.exc import OperationalError

from tests.audit.receipts import committed, receipt
from tests.factories import Account
from tests.processes import ROOT, Web
from webapp import observability
from webapp.http import errors

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
REASON = 'incident;ticket="INC-1"'
RULES = "/admin/api/rules"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def client(app: Flask, capsys: pytest.CaptureFixture[str]) -> FlaskClient:
    """A client of a small application that fails as it is asked to, and logs as if deployed."""
    failing = Flask("failing")
    failing.extensions["settings"] = replace(app.extensions["settings"], env="qa")
    observability.init_app(failing)
    errors.init_app(failing)

    @failing.get("/database")
    def _database() -> Response:
        raise OperationalError("select secret", {}, Exception("connection refused\nDETAIL: x"))

    @failing.get("/broken")
    def _broken() -> Response:
        raise ValueError("broken")

    @failing.get("/full")
    def _full() -> Response:
        raise errors.RateLimited("too many", retry_after=1)

    return failing.test_client()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize(
    ("path", "level"), [("/database", "error"), ("/broken", "error"), ("/nowhere", "info")]
)
def test_request_line_is_as_urgent_as_its_status(
    client: FlaskClient, capsys: pytest.CaptureFixture[str], path: str, level: str
) -> None:
    client.get(path)
    *_, request_line = lines(capsys)
    assert (request_line["event"], request_line["level"]) == ("request", level)


def test_database_that_is_away_is_told_in_one_line_without_a_traceback(
    client: FlaskClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.get("/database")
    told, request_line = lines(capsys)
    assert told["event"] == "database_unavailable"
    assert told["problem"] == "Exception: connection refused"
    assert told["request_id"] == request_line["request_id"]
    assert "exception" not in told


def test_fault_of_our_own_has_its_traceback(
    client: FlaskClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.get("/broken")
    told, _ = lines(capsys)
    assert told["event"] == "unexpected_error"
    assert "ValueError: broken" in told["exception"]


@pytest.mark.parametrize(
    ("given", "noted"),
    [
        (TRACE, TRACE),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", None),
        ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
        (TRACE + "\x1b[2J", None),
        (TRACE.upper(), None),
        ("mine", None),
    ],
)
def test_trace_of_the_client_is_in_the_request_line(
    client: FlaskClient, capsys: pytest.CaptureFixture[str], given: str, noted: str | None
) -> None:
    client.get("/nowhere", headers={"traceparent": given})
    *_, request_line = lines(capsys)
    assert request_line.get("traceparent") == noted


@pytest.mark.slow(seconds=2)
def test_every_line_of_running_processes_has_one_way_of_writing_a_moment(
    app: Flask, web: Web, worker_log: Path, owner: Account
) -> None:
    answer = requests.get(f"{web.url}{RULES}", headers=owner.headers("global", REASON), timeout=60)
    committed(app, *receipt(answer))
    for log in (web.log, worker_log):
        beginnings = [COLOUR.sub("", line)[:27] for line in log.read_text().splitlines()]
        moments = [each for each in beginnings if re.match(r"[0-9]{2,4}[-:/]", each)]
        assert moments
        assert all(MOMENT.fullmatch(each) for each in moments)


def test_batch_of_events_is_one_line_of_the_worker(
    app: Flask, web: Web, worker_log: Path, owner: Account
) -> None:
    answer = requests.get(f"{web.url}{RULES}", headers=owner.headers("global", REASON), timeout=60)
    committed(app, *receipt(answer))
    log = COLOUR.sub("", worker_log.read_text())
    told = Counter(re.findall(r"task_id=(\S+)", log))
    assert told
    assert set(told.values()) == {1}
    assert "received" not in log
    assert "succeeded" not in log


def test_page_of_the_log_names_every_line_that_wants_somebody() -> None:
    code = [
        path.read_text() for room in ("webapp", "tasks") for path in (ROOT / room).rglob("*.py")
    ]
    named = re.compile(r"log\.(?:warning|error|critical)\(\s*\"(\w+)\"")
    told = {name for text in code for name in named.findall(text)}
    page = (ROOT / "docs" / "operations" / "logs.md").read_text()
    assert told
    assert sorted(name for name in told if f"`{name}`" not in page) == []
