"""Tests of appending deliveries: whole or not at all, with what is refused in quarantine."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from operator import attrgetter
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from flask import Flask
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from tests.audit.events import make_event
from tests.audit.ledgers import (
    append_events,
    deliver,
    is_blocked,
    ledger_session,
    owner_connection,
    seal,
    sign,
)
from tests.audit.receipts import second_connection, wait_for
from webapp.audit import append
from webapp.audit.append import Received
from webapp.audit.event import AuditEvent, dump_event
from webapp.audit.models import AuditEventRow, QuarantineRow
from webapp.audit.signature import named_key
from webapp.db.session import ScopedSession

PATIENCE = 120
"""Seconds that workers wait for each other, since each may make partitions for all."""

WITHOUT_PARTITION = datetime(1987, 6, 5, tzinfo=UTC)
"""A moment in a month without a partition: the ledger refuses its events though it is signed."""


@pytest.fixture(scope="module")
def _blocked_month(app: Flask) -> Iterator[None]:
    with owner_connection(app) as owner:
        owner.execute(text("create table audit_events_198706 ()"))
    yield
    with owner_connection(app) as owner:
        owner.execute(text("drop table audit_events_198706"))


@pytest.fixture
def poison(_blocked_month: None) -> AuditEvent:
    return make_event(occurred_at=WITHOUT_PARTITION)


def stored_ids(app: Flask, *events: AuditEvent) -> set[UUID]:
    """Return the ids of those events that are in the ledger; none may be there twice."""
    ids = [event.id for event in events]
    with second_connection(app) as session:
        found = list(session.scalars(select(AuditEventRow.id).where(AuditEventRow.id.in_(ids))))
    assert len(found) == len(set(found))
    return set(found)


def problem_in_quarantine(app: Flask, delivery: Any) -> str | None:
    """Return the problem of a delivery in quarantine, or `None` if it is not there."""
    digest = digest_of(delivery)
    with owner_connection(app) as owner:
        query = text("select problem, delivery from audit_quarantine where digest = :digest")
        found = owner.execute(query, {"digest": digest}).one_or_none()
    if found is None:
        return None
    assert bytes(found.delivery) == orjson.dumps(delivery)
    return str(found.problem)


def test_ledger_row_holds_the_event_and_its_columns(app: Flask) -> None:
    event = make_event()
    append_events(app, event)
    with second_connection(app) as session:
        row = session.get_one(AuditEventRow, event.id)
        assert row.event == orjson.loads(seal(app, event)[0][0])
        assert event.origin is not None
        assert (row.origin_journal, row.origin_seq) == (event.origin.journal, event.origin.seq)
        assert (row.occurred_at, row.request_id) == (event.occurred_at, event.request.id)


@pytest.mark.parametrize("count", [1, 500, 2500])
def test_repeated_delivery_is_counted_and_changes_nothing(app: Flask, count: int) -> None:
    events = [make_event() for _ in range(count)]
    again = [*events[::-1], *(make_event() for _ in range(count))]
    first, second = deliver(app, seal(app, *events)), deliver(app, seal(app, *again))
    assert (first.appended, first.duplicates) == (count, 0)
    assert (second.appended, second.duplicates) == (count, count)
    assert len(stored_ids(app, *events, *again)) == 2 * count


def test_event_twice_in_one_delivery_is_appended_once(app: Flask) -> None:
    event, other = make_event(), make_event()
    received = deliver(app, seal(app, event, other, event))
    assert (received.appended, received.duplicates) == (2, 1)


def test_later_version_of_an_event_is_kept_and_changes_nothing(app: Flask) -> None:
    """The version that came first stands, even if a late one says less."""
    event = make_event(outcome="served")
    append_events(app, event)
    late = make_event(id=event.id, origin=event.origin, outcome="interrupted")
    received = deliver(app, seal(app, late))
    assert (received.duplicates, received.contradictions) == (0, (event.id,))
    with second_connection(app) as session:
        assert session.get_one(AuditEventRow, event.id).outcome == "served"


def test_events_are_not_visible_before_the_commit(app: Flask) -> None:
    events = [make_event() for _ in range(3)]
    with ledger_session(app) as session:
        append.receive(session, seal(app, *events))
        assert stored_ids(app, *events) == set()
        session.rollback()
    assert stored_ids(app, *events) == set()


def test_forged_event_is_quarantined_and_the_rest_committed(app: Flask) -> None:
    first, forged, last = make_event(), make_event(), make_event()
    one, bad, other = seal(app, first, forged, last)
    bad[1] = one[1]
    before = append.QUARANTINED._value.get()
    received = deliver(app, [one, bad, other])
    append.count_received(received)
    assert (received.appended, len(received.quarantined)) == (2, 1)
    assert stored_ids(app, first, forged, last) == {first.id, last.id}
    assert problem_in_quarantine(app, bad) == (f"not what key {named_key(bad[1])} has signed")
    assert append.QUARANTINED._value.get() == before + 1


def test_sealed_item_that_is_no_event_is_quarantined(app: Flask) -> None:
    data = b'{"not":"an event"}'
    item = [data.decode(), sign(app, data)]
    event = make_event()
    assert deliver(app, [item, *seal(app, event)]).appended == 1
    assert problem_in_quarantine(app, item) == "not an audit event"


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "Zq7Kx9"},
        {"Zq7Kx9": 1},
        {"http_status": "Zq7Kx9"},
        {"occurred_at": "Zq7Kx9"},
        {"request": {"Zq7Kx9": None}},
    ],
    ids=str,
)
def test_problem_of_an_invalid_sealed_event_repeats_none_of_its_text(
    app: Flask, change: dict[str, Any]
) -> None:
    """The problem is shown and logged, and the delivery may hold anything."""
    event = orjson.loads(dump_event(make_event())) | change
    data = orjson.dumps(event, option=orjson.OPT_SORT_KEYS)
    item = [data.decode(), sign(app, data)]
    assert len(deliver(app, [item]).quarantined) == 1
    assert "Zq7Kx9" not in str(problem_in_quarantine(app, item))


@pytest.mark.parametrize(
    "delivery", [None, 7, "text", {"a": 1}, ["one"], [["\ud800", "m"]], [2**70]]
)
def test_malformed_delivery_is_quarantined_once(app: Flask, delivery: Any) -> None:
    received = [deliver(app, delivery) for _ in range(2)]
    assert [len(each.quarantined) for each in received] == [1, 1]
    with owner_connection(app) as owner:
        digest = sha256(received[0].quarantined[0].delivery).digest()
        query = text("select count(*) from audit_quarantine where digest = :digest")
        assert owner.scalar(query, {"digest": digest}) == 1


def test_event_that_the_ledger_refuses_is_quarantined_alone(app: Flask, poison: AuditEvent) -> None:
    first, last = make_event(), make_event()
    received = deliver(app, seal(app, first, poison, last))
    assert (received.appended, received.duplicates) == (2, 0)
    assert [item.problem for item in received.quarantined] == [
        "the ledger refused it: IntegrityError"
    ]
    assert stored_ids(app, first, poison, last) == {first.id, last.id}
    again = deliver(app, seal(app, first, poison, last))
    assert (again.appended, again.duplicates, len(again.quarantined)) == (0, 2, 1)


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        ("55P03", OperationalError),  # a lock that could not be acquired
        ("53100", OperationalError),  # a full disk
        ("42703", ProgrammingError),  # an outdated schema
        ("42501", ProgrammingError),  # a grant that is missing
        ("XX001", DBAPIError),  # a damaged page
    ],
)
def test_fault_of_the_database_commits_and_quarantines_nothing(
    app: Flask, raised: str, error: type[Exception]
) -> None:
    """The whole delivery comes again."""
    surface = f"accesses.{uuid4().hex}"
    event, broken = make_event(), make_event(surface=surface)
    with failing(app, surface, raised):
        with pytest.raises(error):
            deliver(app, seal(app, event, broken))
        assert stored_ids(app, event, broken) == set()
    assert deliver(app, seal(app, event, broken)).appended == 2


@pytest.mark.parametrize("raised", ["22P02", "23514", "54000"])
def test_event_with_a_fault_of_its_own_is_quarantined(app: Flask, raised: str) -> None:
    surface = f"accesses.{uuid4().hex}"
    event, broken = make_event(), make_event(surface=surface)
    with failing(app, surface, raised):
        received = deliver(app, seal(app, event, broken))
    assert (received.appended, len(received.quarantined)) == (1, 1)
    assert stored_ids(app, event, broken) == {event.id}


class failing:  # noqa: N801 - used like a function
    """Makes the database fail at rows of a surface with an SQLSTATE, within a `with` block."""

    def __init__(self, app: Flask, surface: str, code: str) -> None:
        self._app, self._surface, self._code = app, surface, code

    def __enter__(self) -> None:
        with owner_connection(self._app) as owner:
            owner.execute(
                text(
                    "create function fail_at() returns trigger language plpgsql as $$ begin"
                    f" if new.surface = '{self._surface}' then"
                    f" raise exception using errcode = '{self._code}'; end if;"
                    " return new; end $$"
                )
            )
            owner.execute(
                text(
                    "create trigger fail_at before insert on audit_events"
                    " for each row execute function fail_at()"
                )
            )

    def __exit__(self, *_: object) -> None:
        with owner_connection(self._app) as owner:
            owner.execute(text("drop function fail_at cascade"))


def test_second_worker_with_the_same_delivery_waits_and_counts_duplicates(app: Flask) -> None:
    """The second worker waits until the first one has committed."""
    events = [make_event() for _ in range(50)]
    with ThreadPoolExecutor(1) as threads, ledger_session(app) as first:
        assert append.receive(first, seal(app, *events)).appended == 50
        with ledger_session(app) as second:
            pid = second.scalars(select(func.pg_backend_pid())).one()
            other = threads.submit(append.receive, second, seal(app, *events[::-1], make_event()))
            wait_for(lambda: is_blocked(app, pid))
            first.commit()
            received = other.result()
            second.commit()
    assert (received.appended, received.duplicates) == (1, 50)
    assert len(stored_ids(app, *events)) == 50


def deliver_while_held(app: Flask, held: Any, *deliveries: Any) -> list[Received]:
    """Commit deliveries at once, after each has waited for the rows of another transaction, `held`.

    That transaction commits when all of them wait.
    """
    with ExitStack() as stack:
        holder = stack.enter_context(ledger_session(app))
        threads = stack.enter_context(ThreadPoolExecutor(len(deliveries)))
        append.receive(holder, held)
        receiving = []
        for delivery in deliveries:
            session = stack.enter_context(ledger_session(app))
            pid = session.scalars(select(func.pg_backend_pid())).one()
            receiving.append(threads.submit(receive_and_commit, session, app, delivery))
            wait_for(partial(is_blocked, app, pid))
        holder.commit()
        return [each.result() for each in receiving]


def receive_and_commit(session: ScopedSession, app: Flask, delivery: Any) -> Received:
    received = append.receive(session, delivery)
    session.commit()
    return received


def test_deliveries_of_the_same_events_in_opposite_orders_do_not_deadlock(app: Flask) -> None:
    """The month has its partition, so that only the order of the rows prevents a deadlock."""
    events = sorted((make_event() for _ in range(3)), key=attrgetter("id"))
    first, second = deliver_while_held(
        app, seal(app, events[1]), seal(app, *events), seal(app, *reversed(events))
    )
    assert (first.appended, first.duplicates) == (2, 1)
    assert (second.appended, second.duplicates) == (0, 3)
    assert stored_ids(app, *events) == {event.id for event in events}


def test_refused_deliveries_in_opposite_orders_do_not_deadlock(app: Flask) -> None:
    refused = sorted((uuid4().hex for _ in range(3)), key=digest_of)
    received = deliver_while_held(app, [refused[1]], refused, refused[::-1])
    assert [len(each.quarantined) for each in received] == [3, 3]
    assert {problem_in_quarantine(app, item) for item in refused} == {
        "not an event and its signature"
    }


def digest_of(delivery: Any) -> bytes:
    """Return the key of a delivery in quarantine."""
    return sha256(orjson.dumps(delivery)).digest()


def deliver_until_committed(app: Flask, delivery: Any) -> Received:
    """Deliver again, as after a worker has put a delivery back, if a lock was not free in time."""
    while True:
        with suppress(OperationalError):
            return deliver(app, delivery)


@pytest.mark.slow
def test_many_workers_with_overlapping_deliveries_append_each_event_once(
    app: Flask, poison: AuditEvent
) -> None:
    """Each delivery has its own order, forged and refused events, and events of new months."""
    dice = random.Random(7)  # noqa: S311 - no secret
    # Past ones: tests of the last events must find their own.
    months = [datetime(1971 + dice.randrange(15), 1 + n, 2, tzinfo=UTC) for n in range(12)]
    events = [make_event(occurred_at=moment) for moment in months for _ in range(20)]
    forged = [
        [[item[0], "0" * 64] for item in seal(app, *(make_event() for _ in range(50)))]
        for _ in range(6)
    ]
    together = Barrier(6, timeout=PATIENCE)

    def work(number: int) -> int:
        own = random.Random(number)  # noqa: S311 - no secret
        appended = 0
        for bad in forged:
            part: list[Any] = [*seal(app, *own.sample(events, 120), poison), *bad]
            own.shuffle(part)
            together.wait()
            appended += deliver_until_committed(app, part).appended
        return appended

    with ThreadPoolExecutor(6) as threads:
        appended = sum(threads.map(work, range(6)))
    assert appended == len(stored_ids(app, *events))
    assert deliver(app, seal(app, *events)).quarantined == ()
    assert stored_ids(app, *events) == {event.id for event in events}


def test_quarantine_is_counted_with_its_recent_part(app: Flask) -> None:
    with ledger_session(app) as session:
        before = append.count_quarantined(session, timedelta(days=7))
        append.receive(session, uuid4().hex)
        total, recent = append.count_quarantined(session, timedelta(days=7))
        assert (total, recent) == (before[0] + 1, before[1] + 1)
        assert append.count_quarantined(session, timedelta(0)) == (total, 0)


def test_no_other_scope_can_read_the_quarantine(app: Flask) -> None:
    with second_connection(app) as session, pytest.raises(ProgrammingError, match="denied"):
        session.execute(text("select digest from audit_quarantine"))
    with ledger_session(app) as session, pytest.raises(ProgrammingError, match="denied"):
        session.execute(text("select delivery from audit_quarantine"))


def fill(app: Flask, *, authentic: bool, rows: int = 0, size: int = 0) -> None:
    """Put rows into quarantine, and a last one that has the rest of `size`."""
    sizes = [0] * rows + [size] * bool(size)
    with owner_connection(app) as owner:
        owner.execute(
            text(
                "insert into audit_quarantine (digest, problem, delivery, authentic, size)"
                " select sha256(gen_random_uuid()::text::bytea), 'filled', '', :authentic, size"
                " from unnest(cast(:sizes as integer[])) size"
            ),
            {"authentic": authentic, "sizes": sizes},
        )


@pytest.fixture
def _empty_quarantine(app: Flask) -> Iterator[None]:
    with owner_connection(app) as owner:
        owner.execute(text("delete from audit_quarantine"))
    yield
    with owner_connection(app) as owner:
        owner.execute(text("delete from audit_quarantine"))


@pytest.mark.usefixtures("_empty_quarantine")
def test_quarantine_has_room_for_so_many_rows(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "QUARANTINE_ROWS", 10)
    fill(app, authentic=False, rows=8)
    received = deliver(app, [uuid4().hex for _ in range(5)])
    assert (len(received.quarantined), received.discarded) == (5, 3)
    before = append.DISCARDED._value.get()
    append.count_received(received)
    assert append.DISCARDED._value.get() == before + 3
    assert deliver(app, [uuid4().hex]).discarded == 1


@pytest.mark.usefixtures("_empty_quarantine")
def test_quarantine_has_room_for_so_many_bytes(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "QUARANTINE_BYTES", 3 * append.QUARANTINED_BYTES)
    long = ["x" * append.QUARANTINED_BYTES + uuid4().hex for _ in range(4)]
    assert deliver(app, long).discarded == 1
    with owner_connection(app) as owner:
        sizes = select(
            func.max(func.octet_length(QuarantineRow.delivery)), func.min(QuarantineRow.size)
        )
        kept, size = owner.execute(sizes).one()
    assert kept == append.QUARANTINED_BYTES
    assert size == len(orjson.dumps(long[0]))


@pytest.mark.usefixtures("_empty_quarantine")
def test_strangers_garbage_takes_no_room_from_sealed_events(app: Flask, poison: AuditEvent) -> None:
    fill(app, authentic=False, rows=append.QUARANTINE_ROWS)
    received = deliver(app, [*seal(app, poison), uuid4().hex])
    assert (len(received.quarantined), received.discarded) == (2, 1)
    with owner_connection(app) as owner:
        authentic = select(func.count()).where(QuarantineRow.authentic)
        assert owner.scalar(authentic) == 1


def test_message_that_could_not_be_opened_is_kept(app: Flask) -> None:
    message = uuid4().bytes
    with ledger_session(app) as session:
        received = append.set_aside(session, "the MAC does not match", message)
        session.commit()
    assert (received.appended, len(received.quarantined), received.discarded) == (0, 1, 0)
    with owner_connection(app) as owner:
        query = select(QuarantineRow.problem).where(QuarantineRow.delivery == message)
        assert owner.scalar(query) == "the MAC does not match"
