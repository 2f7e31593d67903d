"""Answers that wait for the journal's disk: no thread waits with them, and none leaves too soon."""

import json
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import requests
from flask import Flask

from tests.audit.receipts import committed, committed_of_request, receipt, wait_for
from tests.factories import INCIDENT, Account
from tests.http.wire import Answer, parse
from tests.processes import Web, run_server
from tests.server.clients import PATIENCE, connect, ended, read_all
from webapp.audit.journal.file import list_files
from webapp.server.worker import HELD_ANSWERS_MAX

pytestmark = pytest.mark.slow

SERVER = ["gunicorn", "tests.server.patient:app"]
THREADS = 8
PATH = "/admin/api/rules"


@contextmanager
def serving(environment: Mapping[str, str], home: Path, audit_timeout: int) -> Iterator[Web]:
    settings = {
        **environment,
        "JOURNAL_DIR": str(home / "journal"),
        "WEB_CONCURRENCY": "1",
        "AUDIT_TIMEOUT": str(audit_timeout),
    }
    with run_server(SERVER, "/readyz", settings, home / "web.log") as web:
        yield web


@pytest.fixture(scope="module")
def patient(
    worker: None, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """A web process in which a request waits for the journal as long as it takes."""
    with serving(environment, tmp_path_factory.mktemp("patient"), PATIENCE) as web:
        yield web


@pytest.fixture(scope="module")
def impatient(
    worker: None, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    with serving(environment, tmp_path_factory.mktemp("impatient"), 1) as web:
        yield web


@contextmanager
def hanging_disk(web: Web, engineer: Account) -> Iterator[None]:
    """Let the journal wait for its file, which it has made for an access before."""
    get(web, engineer.headers("global", INCIDENT))
    (path,) = list_files(web.log.parent / "journal")
    lock = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    lock.execute("begin immediate")
    try:
        yield
    finally:
        lock.execute("rollback")
        lock.close()


def get(web: Web, headers: Mapping[str, str], **query: str) -> requests.Response:
    return requests.get(web.url + PATH, headers=dict(headers), params=query, timeout=PATIENCE)


def request_of(account: Account, request_id: str, **more: str) -> bytes:
    fields = {
        "Host": "sightline.example",
        "X-Request-ID": request_id,
        **account.headers("global", INCIDENT),
        **more,
    }
    lines = [f"GET {PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def sent(web: Web, *requests_: bytes) -> list[socket.socket]:
    clients = [connect(web.url) for _ in requests_]
    for client, request in zip(clients, requests_, strict=True):
        client.sendall(request)
    return clients


def answers_of(clients: list[socket.socket]) -> list[Answer]:
    return [parse(received_by(client)) for client in clients]


def received_by(client: socket.socket) -> bytes:
    with client:
        return read_all(client)


def receipts_of(answers: list[Answer]) -> list[str]:
    return [answer.headers["sightline-audit"] for answer in answers]


def ids(count: int) -> list[str]:
    return [uuid4().hex for _ in range(count)]


@pytest.mark.parametrize("count", [2 * THREADS, HELD_ANSWERS_MAX])
def test_others_are_answered_while_accesses_wait_for_the_disk(
    app: Flask, patient: Web, engineer: Account, admin: Account, count: int
) -> None:
    with hanging_disk(patient, engineer):
        wanted = [request_of(engineer, name, Connection="close") for name in ids(count)]
        clients = sent(patient, *wanted)
        for _ in range(3):
            assert get(patient, admin.headers()).status_code == 200
        assert ended(clients) == []
    answers = answers_of(clients)
    assert {answer.status for answer in answers} == {200}
    assert len(set(receipts_of(answers))) == count
    for answer in answers:
        (event,) = committed_of_request(app, answer.headers["x-request-id"])
        assert (event["outcome"], event["http_status"]) == ("served", 200)


def test_more_answers_than_are_held_wait_with_their_threads(
    app: Flask, patient: Web, engineer: Account
) -> None:
    count = HELD_ANSWERS_MAX + 2 * THREADS
    with hanging_disk(patient, engineer):
        wanted = [request_of(engineer, name, Connection="close") for name in ids(count)]
        clients = sent(patient, *wanted)
        assert ended(clients) == []
    answers = answers_of(clients)
    assert {answer.status for answer in answers} == {200}
    assert len({*receipts_of(answers)}) == count


def test_answers_on_one_connection_keep_their_order(
    app: Flask, patient: Web, engineer: Account
) -> None:
    names = ids(5)
    with hanging_disk(patient, engineer):
        pipelined = [request_of(engineer, name) for name in names[:-1]]
        last = request_of(engineer, names[-1], Connection="close")
        (client,) = sent(patient, b"".join([*pipelined, last]))
        assert ended([client]) == []
    received = received_by(client)
    heads = [part for part in received.split(b"HTTP/1.1 ") if part]
    assert [head[:3] for head in heads] == [b"200"] * len(names)
    receipts = [parse(b"HTTP/1.1 " + head).headers["sightline-audit"] for head in heads]
    events = committed(app, *map(UUID, receipts))
    assert [event["request"]["x_request_id"] for event in events] == names


def test_access_that_the_disk_does_not_take_in_time_is_refused_in_the_usual_form(
    app: Flask, impatient: Web, engineer: Account
) -> None:
    known = get(impatient, engineer.headers("global", INCIDENT)).headers["ETag"]
    kinds: list[dict[str, str]] = [{}, {"Accept": "text/html"}, {"If-None-Match": known}]
    names = ids(len(kinds))
    with hanging_disk(impatient, engineer):
        pairs = zip(names, kinds, strict=True)
        clients = sent(impatient, *(request_of(engineer, name, **kind) for name, kind in pairs))
        answers = answers_of(clients)
    for name, answer in zip(names, answers, strict=True):
        assert answer.status == 503
        assert answer.headers["x-request-id"] != name
        assert answer.headers["connection"] == "close"
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "ratelimit" in answer.headers
        assert not {"sightline-audit", "sightline-excluded", "etag"} & answer.headers.keys()
    as_json, as_page, _ = answers
    assert json.loads(as_json.body) == {
        "type": "urn:sightline:problem:audit_unavailable",
        "title": "The access could not be recorded, so nothing is shown",
        "status": 503,
        "instance": PATH,
        "code": "audit_unavailable",
        "request_id": as_json.headers["x-request-id"],
    }
    assert as_page.headers["content-type"].startswith("text/html")
    for name in names:
        (event,) = committed_of_request(app, name)
        # A write that hangs cannot be taken back.
        assert event["outcome"] in ("failed", "served")


def test_refused_access_is_logged_and_counted_as_what_was_answered(
    impatient: Web, engineer: Account
) -> None:
    (name,) = ids(1)
    with hanging_disk(impatient, engineer):
        answers_of(sent(impatient, request_of(engineer, name)))

    def lines() -> list[str]:
        said = impatient.log.read_text(errors="replace").splitlines()
        return [line for line in said if name in line and "duration_ms" in line]

    wait_for(lambda: lines() != [])
    (line,) = lines()
    assert "status=503" in line or '"status":503' in line
    assert "audit_ms" in line


def test_client_that_leaves_meanwhile_makes_nobody_wait(
    app: Flask, patient: Web, engineer: Account
) -> None:
    names = ids(2 * THREADS)
    with hanging_disk(patient, engineer):
        for client in sent(patient, *(request_of(engineer, name) for name in names)):
            client.close()
    for name in names:
        (event,) = committed_of_request(app, name)
        assert event["outcome"] in ("served", "interrupted")
    committed(app, *receipt(get(patient, engineer.headers("global", INCIDENT))))
