"""Tests of elevated accesses without a broker, a database or a journal.

No access waits for a broker or a database. Without a journal, only plain accesses are served.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import sleep
from unittest import mock
from uuid import uuid4

import psutil
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.audit.accesses import misbehaving_app
from tests.audit.events import make_event
from tests.audit.journal.journals import PATIENCE, events_in, hanging_disk, waiting_in
from tests.audit.receipts import (
    committed,
    committed_of_request,
    events_of_request,
    receipt,
    wait_for,
)
from tests.factories import INCIDENT, Account, add_account, add_tenant
from tests.processes import run_worker
from tests.rules.calls import PATH, add_rule, delete, draft, names, patch
from webapp.audit.journal.service import Journal, JournalFailed
from webapp.audit.recorder import LOST, RECEIPT_HEADER, REFUSED, UNVOUCHED
from webapp.db import migrate
from webapp.settings import read_settings
from webapp.stack import signing_keys
from webapp.stack.home import SIGNING_KEYS, open_stack, running
from webapp.stack.servers import RedisServer, free_port

pytestmark = pytest.mark.slow(seconds=1)

Breakage = Callable[[], AbstractContextManager[None]]
PATIENT, IMPATIENT = 20.0, 0.3
"""AUDIT_TIMEOUT in tests without and with a broken journal."""


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), free_port())
    server.start()
    yield server
    server.stop()
    server.client.close()


@pytest.fixture(scope="module")
def own_worker(
    app: Flask,
    environment: Mapping[str, str],
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    with run_worker({**environment, "REDIS_URL": redis_server.url}, log):
        yield


@pytest.fixture
def isolated_app(app: Flask, redis_server: RedisServer, tmp_path: Path) -> Iterator[Flask]:
    """An application with a broker, a cache and a journal of its own."""
    settings = replace(
        app.extensions["settings"],
        redis_url=redis_server.url,
        celery_broker_url=redis_server.url,
        journal_dir=tmp_path / "journal",
        audit_timeout=PATIENT,
    )
    with mock.patch("tests.audit.accesses.STOPPING", 0.1), misbehaving_app(settings) as made:
        yield made


@pytest.fixture
def client(isolated_app: Flask) -> FlaskClient:
    return isolated_app.test_client()


@pytest.fixture
def journal(isolated_app: Flask) -> Journal:
    return journal_of(isolated_app)


def journal_of(app: Flask) -> Journal:
    found: Journal = app.extensions["sightline.journal"]
    return found


@pytest.fixture(params=["gone", "hanging"])
def outage(request: pytest.FixtureRequest, redis_server: RedisServer) -> Breakage:
    """An outage of the broker."""

    @contextmanager
    def gone() -> Iterator[None]:
        redis_server.kill()
        try:
            yield
        finally:
            redis_server.start()

    @contextmanager
    def hanging() -> Iterator[None]:
        redis_server.pause()
        try:
            yield
        finally:
            redis_server.resume()

    return {"gone": gone, "hanging": hanging}[request.param]


@pytest.fixture(params=["not there", "full", "hanging"])
def breakage(request: pytest.FixtureRequest, isolated_app: Flask, journal: Journal) -> Breakage:
    """A breakage of the journal."""
    settings = replace(isolated_app.extensions["settings"], audit_timeout=IMPATIENT)

    @contextmanager
    def not_there() -> Iterator[None]:
        journal.close(PATIENCE)
        aside = journal.directory.with_name("aside")
        with suppress(FileNotFoundError):
            journal.directory.rename(aside)
        journal.directory.touch()
        yield
        journal.directory.unlink()
        with suppress(FileNotFoundError):
            aside.rename(journal.directory)

    @contextmanager
    def full() -> Iterator[None]:
        journal.finalize([make_event()], PATIENCE)
        assert journal.file is not None
        execute = journal.file._connection.execute
        with mock.patch.object(journal._writer, "note"):  # otherwise the relay would make room
            execute("pragma max_page_count = 1")
            with suppress(JournalFailed):
                while True:
                    journal.finalize([make_event()], PATIENCE)
            yield
        execute("pragma max_page_count = 10000")

    @contextmanager
    def hanging() -> Iterator[None]:
        journal.finalize([make_event()], PATIENCE)
        with hanging_disk(journal.file):
            yield

    how = {"not there": not_there, "full": full, "hanging": hanging}[request.param]

    @contextmanager
    def broken() -> Iterator[None]:
        with how(), mock.patch.dict(isolated_app.extensions, settings=settings):
            yield

    return broken


def ask(
    client: FlaskClient, who: Account, path: str = "/admin/api/rules", request_id: str = ""
) -> TestResponse:
    headers = {**who.headers("global", INCIDENT), "X-Request-ID": request_id or uuid4().hex}
    return client.get(path, headers=headers)


def assert_withheld(answer: TestResponse) -> None:
    assert answer.status_code == 503
    assert answer.mimetype == "application/problem+json"
    problem = answer.get_json(force=True)
    assert problem["code"] == "audit_unavailable"
    assert problem.keys() == {"type", "title", "status", "instance", "code", "request_id"}
    assert int(answer.headers["Retry-After"]) > 0
    assert RECEIPT_HEADER not in answer.headers
    assert "ETag" not in answer.headers


@pytest.mark.parametrize("connected", [False, True], ids=["at first", "later"])
def test_accesses_are_served_without_a_broker_and_committed_later(
    app: Flask,
    client: FlaskClient,
    engineer: Account,
    own_worker: None,
    outage: Breakage,
    *,
    connected: bool,
) -> None:
    if connected:
        committed(app, *receipt(ask(client, engineer)))
    paths = ["/admin/api/rules", "/admin/api/rules", "/admin/accesses/raises", "/admin/api/audits"]
    with outage():
        answers = [ask(client, engineer, path) for path in paths]
    assert [answer.status_code for answer in answers] == [200, 200, 500, 403]
    events = committed(app, *(event_id for answer in answers for event_id in receipt(answer)))
    assert [event["outcome"] for event in events] == ["served", "served", "failed", "denied"]


def test_events_that_the_broker_lost_are_sent_again(
    app: Flask,
    engineer: Account,
    environment: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("webapp.audit.relay.outbox.RESEND", 1.0)
    broker = RedisServer(tmp_path / "broker", free_port())
    broker.start()
    settings = replace(
        app.extensions["settings"],
        celery_broker_url=broker.url,
        journal_dir=tmp_path / "journal",
    )
    try:
        with misbehaving_app(settings) as forgotten:
            answer = ask(forgotten.test_client(), engineer)
            assert answer.status_code == 200
            wait_for(lambda: broker.client.exists("audit") == 1)
            broker.client.flushall()
            assert events_of_request(app, answer.headers["X-Request-ID"]) == []
            with run_worker({**environment, "REDIS_URL": broker.url}, tmp_path / "worker.log"):
                (event,) = committed(app, *receipt(answer))
    finally:
        broker.stop()
    assert event["outcome"] == "served"


def test_stream_is_recorded_before_its_first_byte(
    client: FlaskClient, engineer: Account, outage: Breakage
) -> None:
    with outage():
        assert ask(client, engineer, "/admin/accesses/journaled").text == "served"


def test_events_wait_in_the_journal_while_the_database_hangs(tmp_path: Path) -> None:
    stack = open_stack(tmp_path, durable=False)
    environment = {"SIGHTLINE_HOME": str(tmp_path), **stack.environment}
    key = {"JOURNAL_SIGNING_KEY": environment[SIGNING_KEYS["web"]]}
    with mock.patch.dict("os.environ", {**environment, **key}):
        settings = read_settings()
    events = [make_event() for _ in range(3)]
    with running(stack):
        migrate.upgrade(settings)
        signing_keys.register(environment)
        with misbehaving_app(settings) as app, run_worker(environment, tmp_path / "worker.log"):
            journal_of(app).finalize(events[:1], PATIENCE)
            committed(app, events[0].id)
            assert stack.postgres.process is not None
            with stopped(psutil.Process(stack.postgres.process.pid)):
                for event in events[1:]:
                    journal_of(app).finalize([event], PATIENCE)
                waiting = {event.id for event in events_in(settings.journal_dir)}
                assert waiting >= {event.id for event in events[1:]}
            committed(app, *(event.id for event in events))
            wait_for(lambda: waiting_in(settings.journal_dir) == [])


@contextmanager
def stopped(server: psutil.Process) -> Iterator[None]:
    """Suspend a server and all processes that it has started."""
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def test_access_without_a_journal_is_withheld(
    app: Flask, client: FlaskClient, engineer: Account, own_worker: None, breakage: Breakage
) -> None:
    """The refused access is recorded once, when the journal is back."""
    refused = REFUSED._value.get()
    paths = ["/admin/api/rules", "/admin/accesses/process", "/admin/accesses/streams"]
    with breakage():
        answers = [ask(client, engineer, path) for path in paths]
    for answer in answers:
        assert_withheld(answer)
        assert b"x" * 100 not in answer.data
    assert REFUSED._value.get() == refused + len(paths)
    for answer in answers:
        (event,) = committed_of_request(app, answer.headers["X-Request-ID"])
        # A write that hangs cannot be cancelled.
        assert event["outcome"] in ("failed", "served")


def test_denial_or_failure_without_a_journal_is_withheld(
    client: FlaskClient, engineer: Account, breakage: Breakage
) -> None:
    with breakage():
        assert_withheld(ask(client, engineer, "/admin/api/audits"))
        assert_withheld(ask(client, engineer, "/admin/accesses/raises"))
        assert_withheld(ask(client, engineer, "/admin/accesses/not-found"))


def test_not_modified_answer_without_a_journal_is_withheld(
    client: FlaskClient, engineer: Account, breakage: Breakage
) -> None:
    seen = ask(client, engineer)
    headers = {**engineer.headers("global", INCIDENT), "If-None-Match": seen.headers["ETag"]}
    assert client.get("/admin/api/rules", headers=headers).status_code == 304
    with breakage():
        assert_withheld(client.get("/admin/api/rules", headers=headers))


def test_plain_access_without_a_journal_is_served(
    app: Flask, client: FlaskClient, breakage: Breakage
) -> None:
    tenant = add_tenant(app)
    member = add_account(app, member_of={tenant.slug: "member"})
    with breakage():
        answer = client.get("/admin/api/rules", headers=member.headers())
    assert answer.status_code == 200
    assert receipt(answer) == []


def test_change_without_a_journal_is_not_made(
    app: Flask, client: FlaskClient, breakage: Breakage
) -> None:
    tenant = add_tenant(app)
    admin = add_account(app, member_of={tenant.slug: "admin"})
    rule = add_rule(client, admin.headers(), "kept")
    with breakage():
        assert_withheld(client.post(PATH, headers=admin.headers(), json=draft("never made")))
        assert_withheld(patch(client, admin, rule, name="changed"))
        assert_withheld(delete(client, admin, rule))
        assert names(client, admin.headers()) == ["kept"]
    assert names(client, admin.headers()) == ["kept"]


def test_open_surface_without_a_journal_is_served_and_recorded_later(
    app: Flask, client: FlaskClient, engineer: Account, own_worker: None, breakage: Breakage
) -> None:
    unvouched = UNVOUCHED._value.get()
    with breakage():
        answers = [ask(client, engineer, "/admin/accesses/open") for _ in range(3)]
    assert [answer.text for answer in answers] == ["shown"] * 3
    assert all(receipt(answer) == [] for answer in answers)
    assert UNVOUCHED._value.get() == unvouched + 3
    for answer in answers:
        (event,) = committed_of_request(app, answer.headers["X-Request-ID"])
        assert (event["surface"], event["outcome"]) == ("accesses.open", "served")


def test_open_surface_is_withheld_when_too_much_waits_for_the_journal(
    client: FlaskClient, engineer: Account, breakage: Breakage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = LOST._value.get()
    with breakage():
        monkeypatch.setattr("webapp.audit.journal.queue.WAITING_MAX", 0)
        assert_withheld(ask(client, engineer, "/admin/accesses/open"))
        assert_withheld(ask(client, engineer))
    assert LOST._value.get() > lost


def test_request_that_ends_unanswered_without_a_journal_is_recorded_later(
    app: Flask, client: FlaskClient, engineer: Account, own_worker: None, breakage: Breakage
) -> None:
    request_id = uuid4().hex
    with breakage(), pytest.raises(SystemExit):
        ask(client, engineer, "/admin/accesses/exits", request_id)
    (event,) = committed_of_request(app, request_id)
    assert event["outcome"] == "interrupted"


def test_access_is_served_again_when_the_journal_is_back(
    client: FlaskClient, engineer: Account, breakage: Breakage
) -> None:
    for _ in range(2):
        with breakage():
            assert_withheld(ask(client, engineer))
        statuses: list[int] = []
        while 200 not in statuses:
            statuses.append(ask(client, engineer).status_code)
            assert len(statuses) < 60, "accesses are still refused after 60 requests"


def test_all_writes_of_a_request_share_one_timeout(
    app: Flask, client: FlaskClient, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[float] = []

    def slow(write: Callable[..., None]) -> Callable[[object, float], None]:
        def written(events: object, within: float) -> None:
            allowed.append(within)
            write(events, PATIENCE)
            sleep(0.1)

        return written

    monkeypatch.setattr(journal, "begin_durably", slow(journal.begin_durably))
    monkeypatch.setattr(journal, "finalize", slow(journal.finalize))
    tenant = add_tenant(app)
    add_rule(client, add_account(app, member_of={tenant.slug: "admin"}).headers())
    first, second = allowed
    assert first <= PATIENT
    assert second <= PATIENT - 0.1


def test_access_whose_event_cannot_be_written_is_withheld(
    app: Flask,
    client: FlaskClient,
    engineer: Account,
    own_worker: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any error in the recording withholds the answer."""

    def fail(*_: object) -> None:
        raise TypeError("not an event that can be written")

    monkeypatch.setattr(journal_of(client.application), "finalize", fail)
    request_id = uuid4().hex
    assert_withheld(ask(client, engineer, request_id=request_id))
    (event,) = committed_of_request(app, request_id)
    assert (event["outcome"], event["http_status"]) == ("failed", 503)
