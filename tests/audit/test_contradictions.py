"""One row for each event: by its id, by its number, and by the digest that the database computes.

Who has the broker and the database's login role may put an event into the ledger before the true
one arrives. The true one is kept then, and an alarm is raised.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from uuid import UUID, uuid4

import orjson
import pytest
from flask import Flask
from sqlalchemy import delete, func, select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from tests.audit.events import make_event
from tests.audit.ledgers import (
    append_events,
    deliver,
    ledger_session,
    owner_connection,
    seal,
    unsigned,
)
from tests.audit.products import Product, numbered, own_product
from tests.audit.receipts import second_connection
from webapp.audit import append
from webapp.audit.event import AuditEvent, EventOrigin, dump_event, event_key
from webapp.audit.models import AuditEventRow, AuditNumberRow, ContradictionRow


@pytest.fixture(autouse=True)
def _no_contradictions(app: Flask) -> Iterator[None]:
    yield
    with owner_connection(app) as owner:
        owner.execute(delete(ContradictionRow))


def forge(app: Flask, event: AuditEvent) -> None:
    """Append an event as the ledger's role, under a signature that nobody has made."""
    with ledger_session(app) as session:
        append.ensure_partitions(session, [event.occurred_at.date()])
        append._append(session, [unsigned(event)])
        session.commit()


def rows_of(app: Flask, event_id: UUID) -> list[AuditEventRow]:
    with second_connection(app) as session:
        found = list(session.scalars(select(AuditEventRow).where(AuditEventRow.id == event_id)))
        session.expunge_all()
        return found


def kept(app: Flask, *events: AuditEvent) -> bool:
    keys = [event_key(event.id, dump_event(event)) for event in events]
    with ledger_session(app) as session:
        return append.find_committed(session, keys) == set(keys)


def test_true_event_after_a_forged_one_is_kept_and_counted(app: Flask) -> None:
    event, other = make_event(), make_event()
    forge(app, replace(event, outcome="denied", rows=None))
    assert not kept(app, event)
    before = append.CONTRADICTIONS._value.get()
    received = deliver(app, seal(app, event, other))
    append.count_received(received)
    assert (received.appended, received.duplicates) == (1, 0)
    assert received.contradictions == (event.id,)
    assert append.CONTRADICTIONS._value.get() == before + 1
    assert [row.outcome for row in rows_of(app, event.id)] == ["denied"]
    assert kept(app, event, other)
    of_event = select(ContradictionRow.event).where(ContradictionRow.event_id == event.id)
    with owner_connection(app) as owner:
        assert owner.scalar(of_event) == orjson.loads(dump_event(event))
    again = deliver(app, seal(app, event, other))
    assert (again.appended, again.duplicates, again.contradictions) == (0, 2, ())


def test_one_id_cannot_stand_in_two_rows(app: Flask) -> None:
    event = make_event()
    append_events(app, event)
    for apart in (timedelta(microseconds=1), timedelta(days=40)):
        moved = event.occurred_at + apart
        with pytest.raises(IntegrityError, match="ck_audit_events_moment"):
            forge(app, replace(event, occurred_at=moved, origin=EventOrigin(uuid4(), 1)))
    assert len(rows_of(app, event.id)) == 1


def test_event_whose_moment_is_not_its_ids_is_quarantined(app: Flask) -> None:
    event = make_event()
    late = replace(event, occurred_at=event.occurred_at + timedelta(days=40))
    received = deliver(app, seal(app, late))
    assert (received.appended, len(received.quarantined), received.contradictions) == (0, 1, ())
    assert deliver(app, seal(app, event)).appended == 1


@pytest.mark.parametrize("days", [0, 40])
def test_one_number_of_a_journal_has_one_event(app: Flask, days: int) -> None:
    """In other months too."""
    first = make_event()
    second = make_event(occurred_at=first.occurred_at + timedelta(days=days), origin=first.origin)
    append_events(app, first)
    with pytest.raises(IntegrityError, match="pk_audit_numbers"):
        forge(app, second)
    after = make_event()
    received = deliver(app, seal(app, second, after))
    assert (received.appended, received.contradictions) == (1, (second.id,))
    assert rows_of(app, second.id) == []
    assert kept(app, first, second, after)


def test_digest_is_the_databases_and_covers_the_canonical_bytes(app: Flask) -> None:
    event = make_event()
    append_events(app, event)
    with ledger_session(app) as session:
        stored = select(AuditEventRow.digest).where(AuditEventRow.id == event.id)
        assert session.scalars(stored).one() == sha256(dump_event(event)).digest()


@pytest.mark.parametrize(
    "statement", ["update audit_numbers set seq = 7", "delete from audit_numbers"]
)
def test_numbers_are_append_only(app: Flask, statement: str) -> None:
    append_events(app, make_event())
    with pytest.raises(ProgrammingError, match="append-only"), owner_connection(app) as owner:
        owner.execute(text(statement))
    with pytest.raises(ProgrammingError, match="permission denied"), ledger_session(app) as session:
        session.execute(text("insert into audit_numbers values (gen_random_uuid(), 1)"))


def test_every_event_has_its_number(app: Flask) -> None:
    events = [make_event() for _ in range(3)]
    append_events(app, *events)
    deliver(app, seal(app, *events))
    with owner_connection(app) as owner:
        ids = [event.id for event in events]
        numbers = select(func.count()).where(AuditNumberRow.event_id.in_(ids))
        assert owner.scalar(numbers) == 3


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with own_product(tmp_path_factory.mktemp("doubles")) as made:
        yield made


@pytest.mark.slow
def test_verify_names_doubles_and_contradictions(product: Product) -> None:
    first, second, third, fourth = numbered(uuid4(), range(1, 5))
    append_events(product.app, first, second, third)
    forge(product.app, replace(fourth, outcome="denied"))
    deliver(product.app, seal(product.app, fourth))
    columns = ", ".join(c.name for c in AuditEventRow.__table__.columns if c.computed is None)
    another_id = columns.replace("id,", "gen_random_uuid(),", 1)
    another_moment = columns.replace("occurred_at", "occurred_at + interval '40 days'")
    product.tamper("alter table audit_events drop constraint ck_audit_events_moment")
    for changed, event in ((another_id, first), (another_moment, second)):
        product.tamper(
            f"insert into audit_events ({columns}) select {changed} from audit_events"  # noqa: S608 - names of columns
            f" where id = '{event.id}'"
        )
    done = product.run("verify", "--complete")
    assert done.exit_code == 1
    assert first.origin is not None
    *lines, total = done.stdout.splitlines()
    assert [line.partition(", received")[0] for line in lines] == [
        f"doubled: 2 rows have the id {second.id}",
        f"doubled: 2 events have number 1 of journal {first.origin.journal}",
        f"contradicted: event {fourth.id}",
    ]
    assert total.startswith("6 events of 1 journals: 0 missing")


def test_drain_keeps_a_contradiction_and_empties_the_file(product: Product) -> None:
    product.tamper("truncate audit_events, audit_numbers, audit_contradictions")
    (event,) = numbered(uuid4(), [1])
    assert event.origin is not None
    forge(product.app, replace(event, outcome="denied"))
    product.leave(event.origin.journal, event)
    done = product.run("drain")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "1 events committed, 0 refused.")
    assert list(product.journals.glob("*.journal")) == []
    assert kept(product.app, event)
    assert product.run("verify", "--complete").exit_code == 1
