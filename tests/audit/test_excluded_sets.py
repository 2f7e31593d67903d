"""Sets of tenants that accesses left out: each is kept once, no later than its first event."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import orjson
import pytest
from flask import Flask
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError, ProgrammingError

from tests.audit.events import excluding, make_event, members_of
from tests.audit.journal.journals import MAX_BYTES, PATIENCE, SIGN, forgetting
from tests.audit.ledgers import append_events, deliver, ledger_session, seal
from tests.audit.receipts import second_connection
from webapp.audit.event import (
    AuditEvent,
    EventError,
    dump_event,
    load_event,
    load_members,
)
from webapp.audit.journal.file import SETS_KEPT, adopt
from webapp.audit.journal.service import Journal
from webapp.audit.models import AuditEventRow, ExcludedSetRow
from webapp.db.scopes import LedgerScope, TenantScope
from webapp.extensions import db

EVERY = frozenset(uuid4() for _ in range(5000))


def some(count: int) -> frozenset[UUID]:
    return frozenset(uuid4() for _ in range(count))


def test_event_has_the_same_size_however_many_tenants_it_excludes() -> None:
    sizes = [len(dump_event(excluding(tenants))) for tenants in (some(1), EVERY)]
    assert sizes[1] - sizes[0] < 10
    assert sizes[1] < 1500


def test_event_names_its_set_and_does_not_hold_it() -> None:
    event = excluding(some(2))
    data = dump_event(event)
    decision = orjson.loads(data)["decision"]
    assert decision["excluded"] == {
        "count": 2,
        "digest": load_members(members_of(event))[0],
    }
    assert load_event(data) == event
    assert members_of(load_event(data)) == ""


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ids: ",".join(ids[::-1]),
        lambda ids: ",".join([*ids, ids[-1]]),
        lambda ids: ",".join(ids).upper(),
        lambda ids: ",".join(ids) + ",",
        lambda _: "",
        lambda _: "x" * 36,
    ],
)
def test_set_in_another_form_is_refused(spoil: Callable[[list[str]], str]) -> None:
    ids = sorted(f"{n:08x}-0000-7000-8000-00000000000a" for n in range(3))
    assert load_members(",".join(ids))[1] == tuple(map(UUID, ids))
    with pytest.raises(EventError):
        load_members(spoil(ids))


def kept(app: Flask, event: AuditEvent) -> list[UUID] | None:
    """The set in the ledger that an event names."""
    assert event.decision.excluded is not None
    with second_connection(app) as session:
        return session.scalars(
            select(ExcludedSetRow.tenant_ids).where(
                ExcludedSetRow.digest == event.decision.excluded.digest
            )
        ).one_or_none()


def is_in_ledger(app: Flask, event: AuditEvent) -> bool:
    with second_connection(app) as session:
        return session.get(AuditEventRow, event.id) is not None


def test_set_is_kept_once_for_all_events_that_name_it(app: Flask) -> None:
    tenants = some(3)
    first, second = excluding(tenants), excluding(tenants)
    received = deliver(app, [[members_of(first)], *seal(app, first, second)])
    assert (received.appended, received.quarantined, received.left) == (2, (), 0)
    assert kept(app, first) == sorted(tenants)
    again = excluding(tenants)
    assert deliver(app, seal(app, again)).appended == 1
    repeated = deliver(app, [[members_of(first)], *seal(app, first)])
    assert (repeated.duplicates, repeated.quarantined) == (1, ())


def test_event_waits_until_a_delivery_brings_its_set(app: Flask) -> None:
    event, other = excluding(some(2)), make_event()
    received = deliver(app, seal(app, event, other))
    assert (received.appended, received.quarantined, received.left) == (1, (), 1)
    assert not is_in_ledger(app, event)
    assert deliver(app, [[members_of(event)], *seal(app, event)]).appended == 1
    assert is_in_ledger(app, event)


def test_set_that_the_event_does_not_name_is_not_kept_for_it(app: Flask) -> None:
    """Whoever has the broker can take a set out, and cannot put another one in."""
    event, other = excluding(some(2)), excluding(some(2))
    received = deliver(app, [[members_of(other)], *seal(app, event)])
    assert (received.appended, received.left) == (0, 1)
    assert (kept(app, event), kept(app, other)) == (None, None)


def test_delivery_of_a_malformed_set_is_quarantined_and_the_rest_committed(app: Flask) -> None:
    event = make_event()
    received = deliver(app, [["not,ids"], *seal(app, event)])
    assert received.appended == 1
    assert [item.problem for item in received.quarantined] == ["not a set of tenants"]


def visible_to(app: Flask, tenant: UUID, *events: AuditEvent) -> list[UUID]:
    with app.app_context(), db.scoped(TenantScope(tenant)):
        ids = [event.id for event in events]
        return list(db.session.scalars(select(AuditEventRow.id).where(AuditEventRow.id.in_(ids))))


def test_tenant_sees_an_access_to_all_unless_a_set_leaves_it_out(app: Flask) -> None:
    tenants = some(2)
    event = excluding(tenants)
    append_events(app, event)
    for tenant in tenants:
        assert visible_to(app, tenant, event) == []
    assert visible_to(app, uuid4(), event) == [event.id]


def test_tenant_learns_only_of_the_sets_that_leave_it_out_and_not_who_else_is_in_them(
    app: Flask,
) -> None:
    tenants = some(2)
    event, other = excluding(tenants), excluding(some(2))
    deliver(app, [[members_of(event)], [members_of(other)], *seal(app, event, other)])
    with app.app_context(), db.scoped(TenantScope(min(tenants))):
        assert event.decision.excluded is not None
        digests = list(db.session.scalars(select(ExcludedSetRow.digest)))
        assert digests == [event.decision.excluded.digest]
        with pytest.raises(ProgrammingError, match="permission denied"):
            db.session.scalars(select(ExcludedSetRow.tenant_ids)).all()
    denied = pytest.raises(ProgrammingError, match="permission denied")
    with app.app_context(), db.scoped(LedgerScope()), denied:
        db.session.scalars(select(ExcludedSetRow.tenant_ids)).all()


def test_set_cannot_have_the_name_of_another(app: Flask) -> None:
    """Not even for the worker: it would hide an access from a tenant, or show it one."""
    event = excluding(some(2))
    assert event.decision.excluded is not None
    forged = {"digest": event.decision.excluded.digest, "tenant_ids": sorted(some(2))}
    with ledger_session(app) as session, pytest.raises(IntegrityError, match="digest"):
        session.execute(insert(ExcludedSetRow).values(forged))


def test_no_role_can_rewrite_a_set(app: Flask) -> None:
    event = excluding(some(2))
    deliver(app, [[members_of(event)], *seal(app, event)])
    for change in (delete(ExcludedSetRow), update(ExcludedSetRow).values(digest="x")):
        with ledger_session(app) as session, pytest.raises(ProgrammingError, match="denied"):
            session.execute(change)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, SIGN, MAX_BYTES)


def leave(journal: Journal, *events: AuditEvent) -> Path:
    """Finalize events, each in a transaction of its own, and end the journal's process."""
    for event in events:
        journal.finalize([event], PATIENCE)
    assert journal.file is not None
    path = journal.file.path
    journal.close(PATIENCE)
    return path


def test_set_is_on_disk_with_the_first_event_that_names_it(journal: Journal) -> None:
    begun, ended = excluding(some(2)), excluding(EVERY)
    journal.begin_durably(begun, PATIENCE)
    file = adopt(leave(journal, ended, excluding(EVERY)), MAX_BYTES)
    rows = file.read_finalized(0, 10)
    named = {row.excluded for row in rows if row.excluded}
    assert len(rows) == 3
    assert set(file.read_sets(named)) == {members_of(begun), members_of(ended)}
    assert file.used_bytes() < 2 * len(members_of(ended))
    file.close()


def test_set_leaves_the_file_some_time_after_the_last_event_that_names_it(
    journal: Journal,
) -> None:
    events = [excluding(some(2)) for _ in range(3 * SETS_KEPT)]
    file = adopt(leave(journal, *events), MAX_BYTES)
    rows = file.read_finalized(0, 100)
    file.note_now(forgetting([row.place for row in rows[1:]]))
    digests = [row.excluded for row in rows if row.excluded]
    assert len(file.read_sets(digests)) == SETS_KEPT + 1
    assert file.read_sets(digests[:1]) == [members_of(events[0])]
    assert file.held == 1
    file.note_now(forgetting([rows[0].place]))
    file.close()
    assert not file.path.exists()
