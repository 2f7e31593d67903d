"""What reaches the worker through the broker: twice, malformed, forged, or before the database."""

from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
from celery import Celery
from flask import Flask
from sqlalchemy import func, select

from tests.audit.events import make_event
from tests.audit.receipts import committed, second_connection, wait_for
from tests.processes import run_worker
from webapp import create_app, migrate
from webapp.audit.event import AuditEvent, dump_event, event_mac
from webapp.audit.models import AuditEventRow
from webapp.audit.recorder import COMMIT_TASK
from webapp.settings import read_settings
from webapp.stack.home import open_stack, running


class Broker:
    """Sends what the web process would, or what it never would."""

    def __init__(self, app: Flask) -> None:
        self._celery: Celery = app.extensions["celery"]
        self._key: bytes = app.extensions["settings"].audit_mac_key.encode()

    def seal(self, event: AuditEvent) -> list[str]:
        data = dump_event(event)
        return [data.decode(), event_mac(data, self._key)]

    def deliver(self, delivery: Any) -> None:
        self._celery.send_task(COMMIT_TASK, args=[delivery])


@pytest.fixture
def broker(app: Flask, worker: None) -> Broker:
    return Broker(app)


def count(app: Flask, *ids: UUID) -> int:
    with second_connection(app) as session:
        asked = select(func.count()).select_from(AuditEventRow).where(AuditEventRow.id.in_(ids))
        return session.scalars(asked).one()


def test_a_delivery_that_comes_twice_is_committed_once(app: Flask, broker: Broker) -> None:
    first, second, third = make_event(), make_event(), make_event()
    broker.deliver([broker.seal(first), broker.seal(second)])
    committed(app, first.id, second.id)
    broker.deliver([broker.seal(first), broker.seal(second)])
    broker.deliver([broker.seal(third), broker.seal(second), broker.seal(third)])
    committed(app, third.id)
    assert count(app, first.id, second.id, third.id) == 3


def test_a_delivery_of_many_comes_twice_at_once(app: Flask, broker: Broker) -> None:
    events = [make_event() for _ in range(200)]
    sealed = [broker.seal(event) for event in events]
    for _ in range(4):
        broker.deliver(sealed)
        broker.deliver(sealed[::-1])
    committed(app, *[event.id for event in events])
    assert count(app, *[event.id for event in events]) == 200


MALFORMED: list[Any] = [
    None,
    "",
    "text",
    7,
    {},
    {"a": "b"},
    [[]],
    [None],
    ["ab"],
    [["text"]],
    [["text", "mac", "more"]],
    [[1, 2]],
    [["text", None]],
    [{"text": "mac"}],
    [["{}", "\ud800"]],
    [["\ud800", "mac"]],
    [["{}", "ä"]],
    [[["nested"], "mac"]],
]


def test_what_is_malformed_is_refused_and_holds_nothing_up(app: Flask, broker: Broker) -> None:
    for delivery in MALFORMED:
        broker.deliver(delivery)
    after = make_event()
    broker.deliver([broker.seal(after)])
    committed(app, after.id)


def test_what_is_malformed_does_not_take_its_neighbours_along(app: Flask, broker: Broker) -> None:
    first, forged, last = make_event(), make_event(), make_event()
    text_, _ = broker.seal(forged)
    _, mac = broker.seal(first)
    bad = [item for delivery in MALFORMED if isinstance(delivery, list) for item in delivery]
    broker.deliver([broker.seal(first), [text_, mac], *bad, broker.seal(last)])
    committed(app, first.id, last.id)
    assert count(app, forged.id) == 0


def test_it_waits_for_the_database(tmp_path: Path) -> None:
    stack = open_stack(tmp_path, durable=False)
    environment = {"SIGHTLINE_HOME": str(tmp_path), **stack.environment}
    with mock.patch.dict("os.environ", environment):
        settings = read_settings()
    log = tmp_path / "worker.log"
    first, second, third = make_event(), make_event(), make_event()
    with running(stack):
        migrate.upgrade(settings)
        app = create_app(settings)
        broker = Broker(app)
        with run_worker(environment, log):
            broker.deliver([broker.seal(first)])
            committed(app, first.id)
            stack.postgres.stop()
            broker.deliver([broker.seal(second)])
            broker.deliver([broker.seal(third)])
            wait_for(lambda: log.read_text().count("audit_commit_put_back") >= 4)
            stack.postgres.start()
            committed(app, second.id, third.id)
        assert count(app, first.id, second.id, third.id) == 3
        app.extensions["celery"].close()
