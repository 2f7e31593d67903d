"""Tests of the ledger's monthly partitions: made ahead or when needed, without blocking others."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from celery import Celery
from flask import Flask
from sqlalchemy import func, select, text

from tests.audit.events import make_event
from tests.audit.ledgers import append_events, is_blocked, ledger_session, owner_connection
from tests.audit.products import Product, own_product
from tests.audit.receipts import second_connection, wait_for
from tests.processes import run_worker
from webapp.audit import append
from webapp.audit.event import AuditEvent, dump_event, event_key
from webapp.audit.models import AuditEventRow
from webapp.scope.lint import check_database

MICROSECOND = timedelta(microseconds=1)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with own_product(tmp_path_factory.mktemp("partitions")) as made:
        yield made


@pytest.fixture(scope="module")
def app(product: Product) -> Flask:
    return product.app


def partition_of(app: Flask, event: AuditEvent) -> str:
    with second_connection(app) as session:
        query = text("select tableoid::regclass::text from audit_events where id = :id")
        return str(session.scalars(query, {"id": event.id}).one())


@pytest.mark.parametrize(
    ("moment", "partition"),
    [
        (datetime(2011, 11, 11, tzinfo=UTC), "audit_events_201111"),
        (datetime(1996, 2, 29, tzinfo=UTC), "audit_events_199602"),
        (datetime(1970, 1, 1, tzinfo=UTC), "audit_events_197001"),
        (datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "audit_events_999912"),
    ],
)
def test_event_of_any_month_gets_its_partition(
    app: Flask, moment: datetime, partition: str
) -> None:
    event = make_event(occurred_at=moment)
    append_events(app, event)
    assert partition_of(app, event) == partition
    assert check_database(app.extensions["settings"]) == []


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/Los_Angeles"])
def test_partitions_are_utc_months_in_any_database_time_zone(app: Flask, zone: str) -> None:
    begins = datetime(1988 + len(zone), 7, 1, tzinfo=UTC)
    with ledger_session(app) as session:
        session.execute(select(func.set_config("timezone", zone, True)))
        session.execute(select(func.set_config("datestyle", "SQL, DMY", True)))
        append.ensure_partitions(session, [begins.date(), date(begins.year, 6, 30)])
        session.commit()
    last, first = make_event(occurred_at=begins - MICROSECOND), make_event(occurred_at=begins)
    append_events(app, last, first)
    assert partition_of(app, last) == f"audit_events_{begins.year}06"
    assert partition_of(app, first) == f"audit_events_{begins.year}07"


def test_two_workers_can_make_the_same_partition_at_once(app: Flask) -> None:
    months = [date(1992, 1, 1), date(1992, 2, 1)]
    with ThreadPoolExecutor(1) as threads, ledger_session(app) as first:
        append.ensure_partitions(first, months)
        with ledger_session(app) as second:
            pid = second.scalars(select(func.pg_backend_pid())).one()
            other = threads.submit(append.ensure_partitions, second, months[::-1])
            wait_for(lambda: is_blocked(app, pid))
            first.commit()
            other.result()
            assert all(append.has_partition(second, month) for month in months)
            second.commit()
    append_events(app, make_event(occurred_at=datetime(1992, 2, 1, tzinfo=UTC)))


def test_waiting_worker_makes_the_partition_after_a_rollback(app: Flask) -> None:
    month = date(1992, 3, 1)
    with ThreadPoolExecutor(1) as threads, ledger_session(app) as first:
        append.ensure_partitions(first, [month])
        with ledger_session(app) as second:
            pid = second.scalars(select(func.pg_backend_pid())).one()
            other = threads.submit(append.ensure_partitions, second, [month])
            wait_for(lambda: is_blocked(app, pid))
            first.rollback()
            other.result()
            second.commit()
    with ledger_session(app) as session:
        assert append.has_partition(session, month)


def test_making_a_partition_blocks_no_reader_and_no_append(app: Flask) -> None:
    """Readers and appends do not block the making of a partition either."""
    known = make_event()
    append_events(app, known)
    with second_connection(app) as before, ledger_session(app) as appending:
        assert before.get(AuditEventRow, known.id)
        append.ensure_partitions(appending, [date.today()])  # noqa: DTZ011 - any day
        appending.execute(select(AuditEventRow.id).limit(1))
        with ledger_session(app, lock_timeout="1ms") as making:
            append.ensure_partitions(making, [date(1992, 4, 1)])
            with ledger_session(app, lock_timeout="1ms") as reading:
                key = event_key(known.id, dump_event(known))
                assert append.find_committed(reading, [key]) == {key}
                reading.rollback()
            append_events(app, make_event())
            making.commit()


def test_month_that_another_partition_covers_gets_none_of_its_own(app: Flask) -> None:
    yearly = "audit_events_in_1990"
    with owner_connection(app) as owner:
        owner.execute(
            text(
                f"create table {yearly} partition of audit_events"
                " for values from ('1990-01-01Z') to ('1991-01-01Z')"
            )
        )
    try:
        event = make_event(occurred_at=datetime(1990, 5, 5, tzinfo=UTC))
        append_events(app, event)
        assert partition_of(app, event) == yearly
        with ledger_session(app) as session:
            assert not append.has_partition(session, date(1990, 5, 1))
    finally:
        with owner_connection(app) as owner:
            owner.execute(text(f"drop table {yearly}"))


@pytest.mark.parametrize(
    ("today", "months"),
    [
        (date(2026, 1, 31), [date(2026, 1, 1), date(2026, 2, 1), date(2026, 3, 1)]),
        (date(2026, 11, 1), [date(2026, 11, 1), date(2026, 12, 1), date(2027, 1, 1)]),
        (date(2026, 12, 31), [date(2026, 12, 1), date(2027, 1, 1), date(2027, 2, 1)]),
    ],
)
def test_months_ahead_are_this_and_the_next_two(today: date, months: list[date]) -> None:
    assert append.months_ahead(today) == months


@pytest.fixture
def missing(app: Flask) -> date:
    """The last of the months ahead, whose partition was dropped."""
    last = append.months_ahead(datetime.now(UTC).date())[-1]
    with owner_connection(app) as owner:
        owner.execute(text(f"drop table audit_events_{last:%Y%m}"))
    return last


@pytest.mark.slow
def test_scheduled_task_makes_partitions_ahead(
    product: Product, missing: date, tmp_path: Path
) -> None:
    celery: Celery = product.app.extensions["celery"]
    entry = celery.conf.beat_schedule["audit-partitions"]
    with (
        run_worker(product.environment, tmp_path / "log"),
        ledger_session(product.app) as session,
    ):
        assert not append.has_partition(session, missing)
        session.rollback()
        celery.send_task(entry["task"])

        def is_there() -> bool:
            session.rollback()
            return append.has_partition(session, missing)

        wait_for(is_there)


def test_new_database_has_the_partitions_ahead(app: Flask) -> None:
    """The migration makes the first partitions."""
    with ledger_session(app) as session:
        for month in append.months_ahead(datetime.now(UTC).date()):
            assert append.has_partition(session, month)
