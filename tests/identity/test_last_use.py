"""Last uses of tokens reach the database, and no request waits for them."""

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from threading import Event
from uuid import UUID, uuid4

import pytest
from flask import Flask

from tests.factories import add_account, add_tenant
from webapp.application import create_app
from webapp.db.scopes import DirectoryScope, MaintenanceScope
from webapp.directory import listing, service
from webapp.extensions import db
from webapp.identity import last_use, tokens
from webapp.identity.last_use import INTERVAL, LastUse

PATIENCE = 180


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Sent:
    """Records what the sending thread sends."""

    def __init__(self) -> None:
        self.tokens: SimpleQueue[UUID] = SimpleQueue()
        self.fail = False

    def __call__(self, token_id: UUID, used_at: datetime) -> None:
        self.tokens.put(token_id)
        if self.fail:
            raise ConnectionError

    def next(self) -> UUID:
        return self.tokens.get(timeout=PATIENCE)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def last_used(app: Flask, token_id: UUID) -> datetime | None:
    with app.app_context(), db.scoped(DirectoryScope()):
        return next(t.last_used_at for t in listing.list_tokens() if t.id == token_id)


def test_each_token_is_sent_once_in_an_interval() -> None:
    clock, sent = Clock(), Sent()
    notes = LastUse(sent, clock)
    first, second, mark = uuid4(), uuid4(), uuid4()
    for token_id in (first, first, second, first):
        notes.note(token_id)
    assert [sent.next(), sent.next()] == [first, second]
    clock.now += INTERVAL
    notes.note(first)
    notes.note(first)
    notes.note(mark)
    assert [sent.next(), sent.next()] == [first, mark]


def test_oldest_token_is_forgotten_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_use, "KNOWN", 2)
    sent = Sent()
    notes = LastUse(sent, Clock())
    first, second, third = uuid4(), uuid4(), uuid4()
    for token_id in (first, second, third, third, second, first):
        notes.note(token_id)
    assert [sent.next() for _ in range(4)] == [first, second, third, first]


def test_failed_send_pauses_sending_for_an_interval() -> None:
    clock, sent = Clock(), Sent()
    notes = LastUse(sent, clock)
    sent.fail = True
    notes.note(uuid4())
    sent.next()
    until(lambda: notes._resume > clock.now)
    sent.fail = False
    for _ in range(5):
        notes.note(uuid4())
    assert notes._queue.empty()
    clock.now += INTERVAL
    mark = uuid4()
    notes.note(mark)
    assert sent.next() == mark
    assert sent.tokens.empty()


def test_uses_that_waited_during_a_failure_are_dropped() -> None:
    clock = Clock()
    entered, leave = Event(), Event()
    sent: list[UUID] = []

    def send(token_id: UUID, used_at: datetime) -> None:
        sent.append(token_id)
        entered.set()
        if len(sent) == 1:
            leave.wait(PATIENCE)
            raise ConnectionError

    notes = LastUse(send, clock)
    first, mark = uuid4(), uuid4()
    notes.note(first)
    assert entered.wait(PATIENCE)
    for _ in range(3):
        notes.note(uuid4())
    leave.set()
    until(lambda: notes._queue.empty() and notes._resume > clock.now)
    clock.now += INTERVAL
    notes.note(mark)
    until(lambda: len(sent) == 2)
    assert sent == [first, mark]


def test_hanging_send_blocks_no_request_and_bounds_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(last_use, "WAITING", 3)
    leave = Event()

    def hang(token_id: UUID, used_at: datetime) -> None:
        leave.wait(PATIENCE)

    notes = LastUse(hang, Clock())
    for _ in range(10):
        notes.note(uuid4())
    assert notes._queue.qsize() <= 3
    assert notes._resume == INTERVAL
    leave.set()


def test_hanging_broker_blocks_no_request(app: Flask) -> None:
    tenant = add_tenant(app)
    account = add_account(app, member_of={tenant.slug: "member"})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        # If the request sent it, the test would run into its own timeout.
        settings = replace(app.extensions["settings"], celery_broker_url=url, audit_timeout=3600.0)
        other = create_app(settings)
        for _ in range(2):
            answer = other.test_client().get("/admin/api/rules", headers=account.headers())
            assert answer.status_code == 200
        silent.settimeout(PATIENCE)
        connection, _ = silent.accept()  # the sending thread does try
        connection.close()
        until(lambda: other.extensions["identity.last_use"]._resume > time.monotonic())
    with other.app_context():
        db.engine.dispose()


@pytest.mark.usefixtures("worker")
def test_worker_stores_the_last_use(app: Flask) -> None:
    tenant = add_tenant(app)
    account = add_account(app, member_of={tenant.slug: "member"})
    assert last_used(app, account.token_id) is None
    before = datetime.now(UTC)
    answer = app.test_client().get("/admin/api/rules", headers=account.headers())
    assert answer.status_code == 200
    until(lambda: last_used(app, account.token_id) is not None)
    used_at = last_used(app, account.token_id)
    assert used_at is not None
    assert before <= used_at <= datetime.now(UTC)


def test_refused_token_counts_as_unused(app: Flask) -> None:
    account = add_account(app)
    notes = app.extensions["identity.last_use"]
    with app.app_context(), db.scoped(DirectoryScope()):
        service.revoke_token(account.token_id)
        db.session.commit()
    app.test_client().get("/admin/api/rules", headers=account.headers())
    assert account.token_id not in notes._due


def test_late_last_use_moves_nothing_back(app: Flask) -> None:
    account = add_account(app)
    now = datetime.now(UTC)
    for used_at in (now, now - timedelta(minutes=5)):
        with app.app_context(), db.scoped(MaintenanceScope()):
            tokens.touch(account.token_id, used_at)
            db.session.commit()
    assert last_used(app, account.token_id) == now
