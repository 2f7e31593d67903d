"""Tests of deliveries to a worker: repeated, malformed, forged, or without a database."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from flask import Flask
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from sqlalchemy import func, select, text

from tests.audit.events import make_event
from tests.audit.ledgers import owner_connection, seal
from tests.audit.products import own_product
from tests.audit.receipts import committed, receipt, second_connection, wait_for
from tests.factories import INCIDENT, add_account
from tests.processes import run_worker
from webapp.audit.event import AuditEvent
from webapp.audit.journal.file import list_files
from webapp.audit.journal.reader import read_all
from webapp.audit.models import AuditEventRow
from webapp.audit.relay import outbox
from webapp.audit.relay.pipeline import COMMIT_TASK
from webapp.stack import signing_keys

pytestmark = pytest.mark.slow(seconds=2)


class Broker:
    """Sends deliveries to the worker, valid ones as a web process does, and invalid ones."""

    def __init__(self, app: Flask) -> None:
        self._celery: Celery = app.extensions["celery"]
        self._app = app

    def seal(self, event: AuditEvent) -> list[str]:
        (sealed,) = seal(self._app, event)
        return sealed

    def deliver(self, delivery: Any) -> None:
        self._celery.send_task(COMMIT_TASK, args=[delivery])


@pytest.fixture
def broker(app: Flask, worker: None) -> Broker:
    return Broker(app)


def count(app: Flask, *ids: UUID) -> int:
    with second_connection(app) as session:
        query = select(func.count()).select_from(AuditEventRow).where(AuditEventRow.id.in_(ids))
        return session.scalars(query).one()


def test_repeated_delivery_is_committed_once(app: Flask, broker: Broker) -> None:
    first, second, third = make_event(), make_event(), make_event()
    broker.deliver([broker.seal(first), broker.seal(second)])
    committed(app, first.id, second.id)
    broker.deliver([broker.seal(first), broker.seal(second)])
    broker.deliver([broker.seal(third), broker.seal(second), broker.seal(third)])
    committed(app, third.id)
    assert count(app, first.id, second.id, third.id) == 3


def test_concurrent_copies_of_a_delivery_are_committed_once(app: Flask, broker: Broker) -> None:
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
    [["text", "signature", "more"]],
    [[1, 2]],
    [["text", None]],
    [{"text": "signature"}],
    [["{}", "\ud800"]],
    [["\ud800", "signature"]],
    [["{}", "ä"]],
    [[["nested"], "signature"]],
]


def test_malformed_delivery_is_refused_and_delays_no_other(app: Flask, broker: Broker) -> None:
    for delivery in MALFORMED:
        broker.deliver(delivery)
    after = make_event()
    broker.deliver([broker.seal(after)])
    committed(app, after.id)


def test_malformed_item_does_not_affect_the_rest_of_its_delivery(
    app: Flask, broker: Broker
) -> None:
    first, forged, last = make_event(), make_event(), make_event()
    text_, _ = broker.seal(forged)
    _, signature = broker.seal(first)
    bad = [item for delivery in MALFORMED if isinstance(delivery, list) for item in delivery]
    broker.deliver([broker.seal(first), [text_, signature], *bad, broker.seal(last)])
    committed(app, first.id, last.id)
    assert count(app, forged.id) == 0


def test_event_that_the_ledger_refuses_delays_no_other(app: Flask, broker: Broker) -> None:
    """The event's signature is valid, but its month was archived, so that it has no partition."""
    with owner_connection(app) as owner:
        owner.execute(text("create table audit_events_198707 ()"))
    try:
        poison = make_event(occurred_at=datetime(1987, 7, 7, tzinfo=UTC))
        first, after = make_event(), make_event()
        broker.deliver([broker.seal(poison)])
        broker.deliver([broker.seal(poison), broker.seal(first)])
        broker.deliver([broker.seal(after)])
        committed(app, first.id, after.id)
    finally:
        with owner_connection(app) as owner:
            owner.execute(text("drop table audit_events_198707"))
    broker.deliver([broker.seal(poison)])
    committed(app, poison.id)


def test_host_whose_key_is_not_registered_loses_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker takes each event for a forged one, and raises an alarm.

    The journal keeps the events, and sends them again until the key is registered.
    """
    monkeypatch.setattr(outbox, "RESEND", 0.2)
    log, numbers = tmp_path / "worker.log", tmp_path / "numbers"
    numbers.mkdir()
    with own_product(tmp_path / "home") as product:
        client, who = product.app.test_client(), add_account(product.app, "engineer")
        counting = {**product.environment, "PROMETHEUS_MULTIPROC_DIR": str(numbers)}
        product.tamper("delete from signing_keys")
        with run_worker(counting, log):
            accesses = [
                client.get("/admin/api/rules", headers=who.headers("global", INCIDENT))
                for _ in range(5)
            ]
            ids = [event_id for answer in accesses for event_id in receipt(answer)]
            assert len(ids) == 5
            wait_for(lambda: in_quarantine(product.app) == len(ids))
            wait_for(lambda: log.read_text().count("audit_event_quarantined") > 2 * len(ids))
        assert alarms(numbers) > 2 * len(ids)
        assert in_quarantine(product.app) == len(ids)
        assert count(product.app, *ids) == 0
        (path,) = list_files(product.journals)
        assert {UUID(row.id) for row in read_all(path)} == set(ids)
        signing_keys.register(product.environment)
        with run_worker(product.environment, log):
            committed(product.app, *ids)
            wait_for(lambda: read_all(path) == [])
        assert count(product.app, *ids) == len(ids)


def in_quarantine(app: Flask) -> int:
    with owner_connection(app) as owner:
        return int(owner.scalar(text("select count(*) from audit_quarantine")) or 0)


def alarms(numbers: Path) -> float:
    """Return the worker's count of quarantined deliveries, as `/metrics` would show it."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(numbers))  # type: ignore[no-untyped-call]  # it has no annotations
    return registry.get_sample_value("sightline_audit_quarantined_total") or 0.0


def test_worker_commits_deliveries_once_the_database_is_back(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    first, second, third = make_event(), make_event(), make_event()
    with own_product(tmp_path / "home") as product:
        broker = Broker(product.app)
        with run_worker(product.environment, log):
            broker.deliver([broker.seal(first)])
            committed(product.app, first.id)
            product.stack.postgres.stop()
            broker.deliver([broker.seal(second)])
            broker.deliver([broker.seal(third)])
            wait_for(lambda: log.read_text().count("audit_commit_put_back") >= 4)
            product.stack.postgres.start()
            committed(product.app, second.id, third.id)
        assert count(product.app, first.id, second.id, third.id) == 3
