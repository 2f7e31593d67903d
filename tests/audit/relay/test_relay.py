"""Tests of the relay: all events of all journals here reach the ledger and are then forgotten."""

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from uuid import UUID, uuid4

import pytest
import requests
from flask import Flask
from kombu.serialization import dumps
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from tests.audit.events import excluding, make_event, members_of
from tests.audit.journal.journals import (
    MAX_BYTES,
    PATIENCE,
    break_next,
    events_in,
    hanging_disk,
    journal_in,
    left_in,
    line_of,
    script,
    waiting_in,
)
from tests.audit.receipts import committed, receipt, wait_for
from tests.audit.relay.relays import Ledger, finalize, refuse, running_relay
from tests.factories import INCIDENT, Account
from tests.processes import Web
from webapp.audit.event import (
    Reason,
    dump_event,
    event_key,
)
from webapp.audit.journal.file import Locked, adopt, create, list_files
from webapp.audit.journal.reader import Row, read_all
from webapp.audit.journal.service import Journal, JournalFailed
from webapp.audit.relay.outbox import BATCH
from webapp.audit.relay.relay import DAMAGED, RELAY_FAILURES, STUCK, Delivery, Relay
from webapp.key_ring import KeyRing
from webapp.worker.serialization import MAX_UNPACKED, register_serializers

LEFT_BEHIND = """
events = [make_event(), make_event(outcome="interrupted")]
journal.finalize(events[:1], PATIENCE)
journal.begin_durably(events[1], PATIENCE)
report(*(event.id for event in events))
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.audit.relay.outbox.RESEND", 0.1)
    monkeypatch.setattr("webapp.audit.relay.relay.BACKOFF", (0.02, 0.1))
    for name in ("ASK", "ADOPT", "TICK"):
        monkeypatch.setattr(f"webapp.audit.relay.relay.{name}", 0.05)
    monkeypatch.setattr("webapp.audit.relay.relay.UNREADABLE", 0.2)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def journal(tmp_path: Path, ledger: Ledger) -> Iterator[Journal]:
    with running_relay(tmp_path / "journal", ledger) as made:
        yield made


def wait_until_empty(journal: Journal) -> None:
    wait_for(lambda: events_in(journal.directory) == [])


def test_finalized_events_reach_the_ledger_and_are_forgotten(
    journal: Journal, ledger: Ledger
) -> None:
    ids = {finalize(journal) for _ in range(50)}
    wait_until_empty(journal)
    assert ledger.events.keys() == ids
    wait_for(lambda: journal.held == 0)


def test_set_of_tenants_is_sent_until_the_ledger_has_an_event_that_names_it(
    journal: Journal, ledger: Ledger
) -> None:
    tenants = frozenset({uuid4(), uuid4()})
    first = excluding(tenants)
    ledger.takes = lambda _: False
    journal.finalize([first], PATIENCE)
    wait_for(lambda: ledger.sets.count(members_of(first)) >= 2)
    ledger.takes = lambda _: True
    wait_until_empty(journal)
    sent = len(ledger.sets)
    journal.finalize([excluding(tenants)], PATIENCE)
    wait_until_empty(journal)
    assert len(ledger.sets) == sent
    ledger.takes = lambda _: False  # as a database that was restored and lacks the set
    journal.finalize([excluding(tenants)], PATIENCE)
    wait_for(lambda: len(ledger.sets) > sent)
    ledger.takes = lambda _: True
    wait_until_empty(journal)


def test_event_that_no_worker_survives_is_found_and_named_and_holds_up_no_other(
    journal: Journal, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.audit.relay.outbox.STUCK_MAX", 0.5)
    events = [make_event() for _ in range(5)]
    poison = events[3].id
    ledger.drops = lambda batch: any(str(poison) in text for text, *_ in batch)

    def is_found() -> bool:
        finalize(journal)  # it overtakes those before it
        return bool(STUCK._value.get() == 1)

    with capture_logs() as logs:
        journal.finalize(events, PATIENCE)
        wait_for(is_found)
        wait_for(lambda: [event.id for event in events_in(journal.directory)] == [poison])
        wait_for(lambda: any(line["event"] == "audit_event_stuck" for line in logs))
    assert {line["audit_event"] for line in logs if line["event"] == "audit_event_stuck"} == {
        str(poison)
    }
    ledger.drops = lambda _: False
    wait_until_empty(journal)
    wait_for(lambda: STUCK._value.get() == 0)


def test_access_that_ends_after_a_later_one_reaches_the_ledger(
    journal: Journal, ledger: Ledger
) -> None:
    slow = make_event(outcome="interrupted")
    journal.begin_durably(slow, PATIENCE)
    for _ in range(3):
        quick = finalize(journal)
        wait_for(lambda quick=quick: quick in ledger.events)  # type: ignore[misc]  # binds it now
    assert slow.id not in ledger.events
    finalize(journal, id=slow.id)
    wait_until_empty(journal)
    assert ledger.events[slow.id].outcome == "served"


def test_event_that_the_broker_lost_is_sent_again(journal: Journal, ledger: Ledger) -> None:
    ledger.takes = lambda _: False
    lost = finalize(journal)
    wait_for(lambda: ledger.deliveries >= 2)
    ledger.takes = lambda _: True
    wait_until_empty(journal)
    assert lost in ledger.events


def test_event_that_the_ledger_refuses_delays_no_other(journal: Journal, ledger: Ledger) -> None:
    refused = {uuid7() for _ in range(3)}
    ledger.takes = lambda event_id: event_id not in refused
    for event_id in refused:
        finalize(journal, id=event_id)
    ids = {finalize(journal) for _ in range(20)}
    wait_for(lambda: ledger.events.keys() >= ids)
    wait_for(lambda: {event.id for event in events_in(journal.directory)} == refused)
    ledger.takes = lambda _: True
    wait_until_empty(journal)


def test_failing_broker_does_not_stop_queries_to_the_ledger(
    journal: Journal, ledger: Ledger
) -> None:
    ledger.takes = lambda _: False
    waiting = finalize(journal)
    wait_for(lambda: ledger.deliveries >= 1)
    failures = RELAY_FAILURES.labels("send")._value
    before = failures.get()
    ledger.before_send = refuse
    finalize(journal)
    wait_for(lambda: failures.get() >= before + 3)
    (held,) = [event for event in events_in(journal.directory) if event.id == waiting]
    ledger.events[waiting] = held
    wait_for(lambda: waiting not in {event.id for event in events_in(journal.directory)})
    assert len(events_in(journal.directory)) == 1
    ledger.takes, ledger.before_send = lambda _: True, lambda: None
    wait_until_empty(journal)


def test_failing_database_does_not_stop_sending(journal: Journal, ledger: Ledger) -> None:
    failures = RELAY_FAILURES.labels("ask")._value
    before = failures.get()
    ledger.before_answer = refuse
    finalize(journal)
    wait_for(lambda: failures.get() >= before + 3)
    event_id = finalize(journal)
    wait_for(lambda: event_id in ledger.events)
    assert len(events_in(journal.directory)) == 2
    ledger.before_answer = lambda: None
    wait_until_empty(journal)


def test_events_of_a_dead_process_reach_the_ledger(journal: Journal, ledger: Ledger) -> None:
    """Nothing happens in the adopting process meanwhile."""
    with script(LEFT_BEHIND, journal.directory) as process:
        ids = [UUID(event_id) for event_id in line_of(process)]
        assert not ledger.events
        process.kill()
    wait_until_empty(journal)
    assert [ledger.events[event_id].outcome for event_id in ids] == ["served", "interrupted"]
    wait_for(lambda: left_in(journal.directory) == [])


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["no database", "overwritten", "a row", "not ours"])
def test_unreadable_file_does_not_stop_the_others(
    journal: Journal, ledger: Ledger, damage: str
) -> None:
    """It raises an alarm, stays where it is, and is relayed once it can be read."""
    journal.directory.mkdir()
    apart = journal.directory.parent / "apart"  # the relay may adopt a file as soon as it is there
    apart.mkdir()
    bad = create(apart, UUID(int=0), MAX_BYTES)
    rescued = make_event()
    with journal_in(journal.directory.parent / "other") as other:
        other.finalize([rescued], PATIENCE)
        assert other.file is not None
        (row,) = read_all(other.file.path)
    others = [Row(place, str(uuid4()), True, b"x" * 900, "") for place in range(2, 50)]
    bad.write([row, *others], durable=True)
    bad.write(forgotten=range(2, 50), durable=True)
    bad.close()
    good = bad.path.read_bytes()
    place = journal.directory / bad.path.name
    if damage == "not ours":
        place.mkdir()
    else:
        half = 0 if damage == "no database" else 4096
        damaged = good[:half] + b"\xff" * (len(good) - half)
        if damage == "a row":  # this damage is noticed when the row is read
            damaged = good.replace(str(rescued.id).encode(), b"?" * 36)
        bad.path.write_bytes(damaged)
        bad.path.rename(place)
    wait_for(lambda: DAMAGED._value.get() == 1)
    with script(LEFT_BEHIND, journal.directory) as process:
        left = {UUID(event_id) for event_id in line_of(process)}
        process.kill()
    own = finalize(journal)
    wait_for(lambda: ledger.events.keys() == left | {own})
    assert place.exists()
    place.rmdir() if damage == "not ours" else place.unlink()
    bad.path.write_bytes(good)
    bad.path.rename(place)
    wait_for(lambda: rescued.id in ledger.events)
    wait_for(lambda: not place.exists())
    wait_for(lambda: DAMAGED._value.get() == 0)


def test_damaged_event_is_refused_by_the_worker_and_stays_in_its_file(
    journal: Journal, ledger: Ledger
) -> None:
    """Only the worker checks signatures. The event delays no other one."""
    left = create(journal.directory, uuid4(), MAX_BYTES)
    damaged = Row(1, str(uuid4()), True, b"\xff\xfe", "signature")
    left.write([damaged], durable=True)
    left.close()
    event_id = finalize(journal)
    wait_for(lambda: event_id in ledger.events)
    wait_for(lambda: len(ledger.refused) > 1)
    assert [row.id for row in read_all(left.path)] == [damaged.id]
    ledger.kept.add(damaged.key)
    wait_for(lambda: not left.path.exists())


def test_another_event_under_its_id_does_not_make_an_event_forgotten(
    journal: Journal, ledger: Ledger
) -> None:
    ledger.takes = lambda _: False
    event_id = finalize(journal)
    wait_for(lambda: ledger.deliveries >= 1)
    (held,) = events_in(journal.directory)
    ledger.events[event_id] = replace(held, outcome="denied")
    before = ledger.deliveries
    wait_for(lambda: ledger.deliveries > before + 1)
    assert [event.id for event in events_in(journal.directory)] == [event_id]
    ledger.kept.add(event_key(held.id, dump_event(held)))
    wait_until_empty(journal)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_FULL])
def test_relay_follows_the_journal_to_another_file(
    journal: Journal, ledger: Ledger, code: int
) -> None:
    ids = {finalize(journal)}
    for _ in range(5):
        assert journal.file is not None
        break_next(journal.file, code, written=False)
        event = make_event()
        try:
            journal.finalize([event], PATIENCE)
        except JournalFailed:
            journal.finalize_later([event])
        ids |= {event.id, finalize(journal)}
    wait_for(lambda: ledger.events.keys() == ids)
    wait_until_empty(journal)


def test_full_disk_is_emptied_and_used_again(small_disk: Path, ledger: Ledger) -> None:
    """The disk has no room to write that rows are forgotten."""
    ledger.before_answer = refuse
    with running_relay(small_disk, ledger) as journal:
        ids, failed = set[UUID](), 0
        while failed < 3:
            event = make_event()
            try:
                journal.finalize([event], PATIENCE)
            except JournalFailed:
                journal.finalize_later([event])
                failed += 1
            ids.add(event.id)
        assert len(ids) > 100
        ledger.before_answer = lambda: None
        wait_for(lambda: ledger.events.keys() == ids)
        wait_until_empty(journal)
        ids.add(finalize(journal))
        wait_for(lambda: ledger.events.keys() == ids)


def test_full_journal_is_emptied_and_used_again(tmp_path: Path, ledger: Ledger) -> None:
    ledger.before_send = refuse
    with running_relay(tmp_path, ledger, max_bytes=2**17) as journal:
        ids = set[UUID]()
        with suppress(JournalFailed):
            while True:
                ids.add(finalize(journal))
        ledger.before_send = lambda: None
        wait_for(lambda: ledger.events.keys() == ids)
        wait_until_empty(journal)
        ids.add(finalize(journal))
        wait_for(lambda: ledger.events.keys() == ids)


def test_draining_relays_all_events(tmp_path: Path, ledger: Ledger) -> None:
    with running_relay(tmp_path, ledger) as journal:
        ids = {finalize(journal) for _ in range(2 * BATCH)}
    assert ledger.events.keys() == ids
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "hangs"])
def test_events_that_draining_could_not_relay_can_be_adopted(
    tmp_path: Path, ledger: Ledger, *, hangs: bool
) -> None:
    go_on = Event()
    ledger.before_answer = (lambda: go_on.wait(PATIENCE)) if hangs else refuse
    with journal_in(tmp_path) as journal:
        relay = Relay(journal, ledger.send, ledger.confirm, keep=0)
        event_id = finalize(journal)
        wait_for(lambda: event_id in ledger.events)
        relay.drain(0.2)
        (path,) = list_files(tmp_path)
        adopted = adopt(path, MAX_BYTES)
        assert [row.id for row in adopted.read_finalized(0, 10)] == [str(event_id)]
        adopted.close()
        go_on.set()


def test_draining_relay_adopts_no_file(tmp_path: Path, ledger: Ledger) -> None:
    ledger.before_answer = refuse
    with journal_in(tmp_path) as journal:
        relay = Relay(journal, ledger.send, ledger.confirm, keep=0)
        finalize(journal)
        wait_for(lambda: bool(ledger.events))
        relay.drain(0.0)
        finalize(journal)
        journal.close(PATIENCE)
        for path in list_files(tmp_path):
            wait_for(lambda path=path: _is_free(path))  # type: ignore[misc]  # binds it now


def _is_free(path: Path) -> bool:
    try:
        adopt(path, MAX_BYTES).close()
    except Locked:
        return False
    return True


def test_hanging_disk_does_not_stop_the_relay_from_reading(
    journal: Journal, ledger: Ledger
) -> None:
    ledger.before_send = refuse
    event_id = finalize(journal)
    with hanging_disk(journal.file):
        ledger.before_send = lambda: None
        wait_for(lambda: event_id in ledger.events)
    wait_until_empty(journal)


@pytest.mark.slow
def test_child_of_a_fork_relays_its_own_events(tmp_path: Path) -> None:
    """The child relays no event of its parent.

    A child cannot continue what SQLite did during the fork, so the parent is idle then.
    """
    code = """
from webapp.audit.append import Confirmation
from webapp.audit.event import event_key
from webapp.audit.relay import relay

committed = set()
def send(batch):
    for text, _ in batch:
        committed.add(event_key(load_event(text.encode()).id, text.encode()))

def confirm(keys):
    return Confirmation(committed.intersection(keys), "history")

running = relay.Relay(journal, send, confirm, keep=0)

def bring():
    event = make_event()
    relay.TICK = 0.01
    journal.finalize([event], PATIENCE)
    while journal.held:
        time.sleep(0.01)
    relay.TICK = 3600
    time.sleep(0.2)
    return any(key.startswith(str(event.id)) for key in committed)

bring()
child = os.fork()
brought = bring()
if child == 0:
    os._exit(0 if brought and len(committed) == 2 else 1)
report(brought, os.waitpid(child, 0)[1], len(committed))
"""
    with script(code, tmp_path) as process:
        assert line_of(process) == ["True", "0", "2"]


@pytest.mark.slow
def test_access_over_http_reaches_the_ledger_and_leaves_the_journal(
    app: Flask, web: Web, engineer: Account
) -> None:
    """The processes are real, and no event is left on this host."""
    headers = engineer.headers("global", INCIDENT)
    answers = [
        requests.get(f"{web.url}/admin/api/rules", headers=headers, timeout=PATIENCE)
        for _ in range(5)
    ]
    assert {answer.status_code for answer in answers} == {200}
    events = committed(app, *(event_id for answer in answers for event_id in receipt(answer)))
    assert [event["outcome"] for event in events] == ["served"] * 5
    ids = {UUID(event["id"]) for event in events}
    directory = app.extensions["settings"].journal_dir
    wait_for(lambda: ids.isdisjoint(event.id for event in waiting_in(directory)))


def test_event_that_no_task_can_hold_does_not_hold_up_those_behind_it(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one with another limit may have left it in a file."""
    monkeypatch.setattr("webapp.audit.journal.writer.MAX_STORED", MAX_UNPACKED * 2)
    large = make_event(reason=Reason(code="incident", note="x" * MAX_UNPACKED, ticket=None))
    send = ledger.send
    (sealed,) = register_serializers(KeyRing(b"a secret of this test"))

    def refuse_large(batch: Delivery) -> None:
        dumps([batch], sealed)
        send(batch)

    monkeypatch.setattr(ledger, "send", refuse_large)
    with running_relay(tmp_path / "journal", ledger, 2**26) as journal:
        journal.finalize([large], PATIENCE)
        behind = {finalize(journal) for _ in range(3)}
        wait_for(lambda: ledger.events.keys() == behind)
        wait_for(lambda: [event.id for event in events_in(journal.directory)] == [large.id])
        adopted = tmp_path / "journal"
        ledger.kept.add(next(row.key for path in list_files(adopted) for row in read_all(path)))
        wait_until_empty(journal)
