"""Tests of events that stay in their journal though the ledger has them: it may lose them again."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import monotonic
from uuid import UUID, uuid4

import pytest

from tests.audit.events import excluding, make_event, members_of
from tests.audit.journal.journals import (
    MAX_BYTES,
    PATIENCE,
    journal_in,
    left_in,
    waiting_in,
)
from tests.audit.receipts import wait_for
from tests.audit.relay.relays import Ledger, finalize, refuse, running_relay
from webapp.audit.append import Confirmation
from webapp.audit.event import AuditEvent, load_event
from webapp.audit.journal import ends
from webapp.audit.journal.file import JournalFile, adopt, create, list_files
from webapp.audit.journal.reader import Row, count_waiting, read_all
from webapp.audit.journal.service import Journal, JournalFailed
from webapp.audit.relay.outbox import Outbox
from webapp.audit.relay.relay import FORGOTTEN_EARLY, LOST_BY_LEDGER, RELAY_FAILURES

LONG = 3600.0


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.audit.relay.outbox.RESEND", 0.1)
    monkeypatch.setattr("webapp.audit.relay.relay.BACKOFF", (0.02, 0.1))
    for name in ("ASK", "ADOPT", "TICK", "WATCH"):
        monkeypatch.setattr(f"webapp.audit.relay.relay.{name}", 0.05)
    # Whatever disk the tests have.
    monkeypatch.setattr("webapp.audit.relay.relay._free_bytes", lambda directory: 2.0**40)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def wait_until_confirmed(directory: Path) -> None:
    wait_for(lambda: waiting_in(directory) == [])


def ids_in(directory: Path) -> set[UUID]:
    return {UUID(row.id) for path in list_files(directory) for row in read_all(path)}


def fail_over(ledger: Ledger, *lost: UUID) -> None:
    """Let a standby that lacks some events take the ledger's place."""
    for event_id in lost:
        del ledger.events[event_id]
    ledger.history += "'"


def test_confirmed_events_stay_and_are_not_sent_again(tmp_path: Path, ledger: Ledger) -> None:
    with running_relay(tmp_path, ledger, keep=LONG) as journal:
        ids = {finalize(journal) for _ in range(20)}
        wait_until_confirmed(tmp_path)
        sent = ledger.deliveries
        later = finalize(journal)
        wait_for(lambda: later in ledger.events)
        wait_until_confirmed(tmp_path)
        assert ids_in(tmp_path) == {*ids, later}
        assert journal.held == 0
        assert ledger.deliveries == sent + 1


def test_what_a_promoted_standby_lacks_is_sent_to_it(tmp_path: Path, ledger: Ledger) -> None:
    """Nothing else happens in the process."""
    counted = LOST_BY_LEDGER._value.get()
    with running_relay(tmp_path, ledger, keep=LONG) as journal:
        ids = [finalize(journal) for _ in range(20)]
        wait_until_confirmed(tmp_path)
        before = dict(ledger.events)
        fail_over(ledger, *ids[12:])
        wait_for(lambda: ledger.events.keys() == set(ids))
        assert ledger.events == before
        wait_until_confirmed(tmp_path)
        fail_over(ledger, *ids[:3])
        wait_for(lambda: ledger.events.keys() == set(ids))
    assert LOST_BY_LEDGER._value.get() == counted + 11


def test_sets_of_tenants_are_sent_to_a_ledger_that_may_lack_them(
    tmp_path: Path, ledger: Ledger
) -> None:
    tenants = frozenset({uuid4(), uuid4()})
    with running_relay(tmp_path, ledger, keep=LONG) as journal:
        first = excluding(tenants)
        journal.finalize([first], PATIENCE)
        wait_until_confirmed(tmp_path)
        fail_over(ledger)
        ledger.sets.clear()
        seen = finalize(journal)
        wait_for(lambda: seen in ledger.events)
        wait_until_confirmed(tmp_path)
        journal.finalize([excluding(tenants)], PATIENCE)
        wait_until_confirmed(tmp_path)
        assert members_of(first) in ledger.sets


def test_dead_processes_events_are_sent_again_after_a_failover(
    tmp_path: Path, ledger: Ledger
) -> None:
    """It ended in order, and everything was in the ledger."""
    with running_relay(tmp_path, ledger, keep=LONG) as journal:
        ids = [finalize(journal) for _ in range(20)]
    assert len(list_files(tmp_path)) == 1
    assert waiting_in(tmp_path) == []
    sent = ledger.deliveries
    with running_relay(tmp_path, ledger, keep=LONG):
        fail_over(ledger, *ids[10:])
        wait_for(lambda: ledger.events.keys() == set(ids))
        assert ledger.deliveries == sent + 1
        wait_until_confirmed(tmp_path)
    assert len(list_files(tmp_path)) == 1


def test_file_that_only_keeps_events_is_left_unlocked(tmp_path: Path, ledger: Ledger) -> None:
    """So any number of them take no room among the files that a process adopts."""
    with running_relay(tmp_path, ledger, keep=LONG) as journal:
        finalize(journal)
    (path,) = list_files(tmp_path)
    asked = 0

    def count() -> None:
        nonlocal asked
        asked += 1

    ledger.before_answer = count
    with running_relay(tmp_path, ledger, keep=LONG):
        wait_for(lambda: asked >= 5)
        adopt(path, MAX_BYTES).close()


def test_kept_events_are_forgotten_in_time(tmp_path: Path, ledger: Ledger) -> None:
    with running_relay(tmp_path, ledger, keep=0.3) as journal:
        for _ in range(5):
            finalize(journal)
        wait_for(lambda: journal.file is not None and ids_in(tmp_path) == set())
        finalize(journal)
    with running_relay(tmp_path, ledger, keep=0.3):
        wait_for(lambda: left_in(tmp_path) == [])
    assert len(ledger.events) == 6


def test_nothing_is_forgotten_while_the_ledger_cannot_be_asked(
    tmp_path: Path, ledger: Ledger
) -> None:
    """The primary is gone for longer than events are kept, and a standby takes its place then."""
    failures = RELAY_FAILURES.labels("watch")._value
    with running_relay(tmp_path, ledger, keep=0.3) as journal:
        ledger.before_answer = refuse
        ids = [finalize(journal) for _ in range(3)]
        wait_for(lambda: ledger.events.keys() == set(ids))
        ledger.before_answer = lambda: None
        wait_until_confirmed(tmp_path)
        ledger.before_answer = refuse
        before = failures.get()
        wait_for(lambda: failures.get() > before + 15)
        assert ids_in(tmp_path) == set(ids)
        fail_over(ledger, *ids)
        ledger.before_answer = lambda: None
        wait_for(lambda: ledger.events.keys() == set(ids))


def test_nothing_is_forgotten_before_the_ledger_was_asked_again(
    tmp_path: Path, ledger: Ledger
) -> None:
    """A file is found long after its time, and the database has been restored meanwhile."""
    with running_relay(tmp_path, ledger, keep=LONG) as journal:
        ids = [finalize(journal) for _ in range(3)]
    ledger.before_answer = refuse
    with running_relay(tmp_path, ledger, keep=0.0):
        wait_for(lambda: not _is_free(tmp_path))
        fail_over(ledger, *ids)
        ledger.before_answer = lambda: None
        wait_for(lambda: ledger.events.keys() == set(ids))
        wait_for(lambda: left_in(tmp_path) == [])


def _is_free(directory: Path) -> bool:
    try:
        adopt(list_files(directory)[0], MAX_BYTES).close()
    except Exception:
        return False
    return True


def test_kept_events_leave_room_in_the_file(tmp_path: Path, ledger: Ledger) -> None:
    """They never make an access wait or fail, and those confirmed first go first."""
    counted = FORGOTTEN_EARLY._value.get()
    with running_relay(tmp_path, ledger, max_bytes=2**18, keep=LONG) as journal:
        ids = []
        for _ in range(1000):
            ids.append(finalize(journal))
            if len(ids) % 50 == 0:
                wait_until_confirmed(tmp_path)
        wait_for(lambda: 0 < len(ids_in(tmp_path)) < 150)
        assert FORGOTTEN_EARLY._value.get() > counted + 800
        assert ids_in(tmp_path) <= set(ids[800:])
        assert ledger.events.keys() == set(ids)


def test_full_file_has_room_for_what_it_notes(tmp_path: Path, ledger: Ledger) -> None:
    """Between all events stands one of an access that lasts, so that each takes a line."""
    ledger.history *= 60
    ledger.before_send = refuse
    with running_relay(tmp_path, ledger, max_bytes=2**18, keep=LONG) as journal:
        ids, last = set(), []
        with suppress(JournalFailed):
            while True:
                event = make_event()
                journal.begin_durably(event, PATIENCE)
                last.append(event)
                ids.add(finalize(journal))
        assert len(ids) > 70
        file = journal.file
        ledger.before_send = lambda: None
        wait_for(lambda: ledger.events.keys() >= ids)
        wait_for(lambda: journal.held == len(last))
        assert journal.file is file
        wait_for(lambda: has_taken(journal, last))


def has_taken(journal: Journal, events: Sequence[AuditEvent]) -> bool:
    """Kept events make room at the relay's next round: a full file takes none before."""
    try:
        journal.finalize(events, PATIENCE)
    except JournalFailed:
        return False
    return True


def test_kept_events_leave_room_on_the_disk(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_relay(tmp_path, ledger, keep=LONG) as journal:
        for _ in range(5):
            finalize(journal)
    with running_relay(tmp_path, ledger, keep=LONG) as journal:
        finalize(journal)
        wait_until_confirmed(tmp_path)
        assert len(list_files(tmp_path)) == 2
        monkeypatch.setattr("webapp.audit.relay.relay._free_bytes", lambda directory: 0.0)
        wait_for(lambda: ids_in(tmp_path) == set())
        wait_for(lambda: len(list_files(tmp_path)) == 1)


def test_clock_that_begins_anew_keeps_events_longer(tmp_path: Path) -> None:
    """As after a restart of the host, where `time.monotonic` begins again."""
    made = create(tmp_path, uuid4(), MAX_BYTES)
    before = monotonic()
    keep(made, at=before + 10**6)
    file = adopt(made.path, MAX_BYTES)
    box = Outbox(file, file.note_now)
    assert not box.forget(before, "history")
    assert file.kept == 3
    assert box.forget(monotonic(), "history")
    file.close()
    assert not file.path.exists()


def keep(file: JournalFile, at: float) -> None:
    """Let a file keep three rows that were confirmed at a moment."""
    file.write([Row(n, str(uuid4()), True, b"{}", "") for n in (1, 2, 3)], durable=False)
    box = Outbox(file, file.note_now)
    rows = box.take(0.0)
    box.note_sent(rows, 0.0)
    box.note_found(Confirmation({row.key for row in rows}, "history", at))
    file.close()


def test_end_of_a_journal_outlives_its_file(tmp_path: Path, ledger: Ledger) -> None:
    with running_relay(tmp_path, ledger) as journal:
        for _ in range(7):
            finalize(journal)
        wait_until_confirmed(tmp_path)
        assert journal.file is not None
        origin, path = journal.file.origin, journal.file.path
        assert ends.read_noted(path) == {origin: 7}
        assert ends.read_recorded(tmp_path) == {}
    assert not path.exists()
    assert ends.read_recorded(tmp_path) == {origin: 7}
    assert (tmp_path / ends.NAME).stat().st_mode & 0o777 == 0o600


def test_end_counts_what_the_ledger_has_and_nothing_else(tmp_path: Path, ledger: Ledger) -> None:
    with running_relay(tmp_path, ledger, keep=LONG) as journal:
        first = finalize(journal)
        wait_for(lambda: first in ledger.events)
        wait_until_confirmed(tmp_path)
        ledger.takes = lambda _: False
        finalize(journal)
        assert journal.file is not None
        wait_for(lambda: count_waiting(journal.file.path) == 1)  # type: ignore[union-attr]  # asserted above
        assert list(ends.read_noted(journal.file.path).values()) == [1]
        ledger.takes = lambda _: True


def test_processes_that_end_at_once_record_all_their_ends(tmp_path: Path) -> None:
    origins = [uuid4() for _ in range(40)]
    with ThreadPoolExecutor(8) as threads:
        for number, origin in enumerate(origins, 1):
            threads.submit(ends.record, tmp_path, {str(origin): number})
    assert ends.read_recorded(tmp_path) == {o: n for n, o in enumerate(origins, 1)}
    ends.record(tmp_path, {str(origins[0]): 5, str(origins[9]): 5})
    found = ends.read_recorded(tmp_path)
    assert (found[origins[0]], found[origins[9]]) == (5, 10)


def test_unrecordable_end_does_not_keep_a_file(tmp_path: Path, ledger: Ledger) -> None:
    (tmp_path / ends.NAME).symlink_to(tmp_path / "elsewhere")
    with running_relay(tmp_path, ledger) as journal:
        finalize(journal)
    assert list_files(tmp_path) == []
    assert not (tmp_path / "elsewhere").exists()


def test_number_that_ended_in_another_file_counts_for_its_own_journal(
    tmp_path: Path, ledger: Ledger
) -> None:
    with journal_in(tmp_path / "one") as journal:
        event = make_event()
        journal.finalize([event], PATIENCE)
        assert journal.file is not None
        origin = journal.file.origin
        (row,) = read_all(journal.file.path)
        assert load_event(row.event).origin is not None
    other = create(tmp_path / "other", uuid4(), MAX_BYTES)
    other.write([row], durable=True)
    other.close()
    with running_relay(tmp_path / "other", ledger):
        wait_for(lambda: left_in(tmp_path / "other") == [])
    assert ends.read_recorded(tmp_path / "other") == {origin: 1}


def test_kept_rows_survive_the_process_with_their_runs(tmp_path: Path, ledger: Ledger) -> None:
    """Some accesses that have only begun, or that the ledger refuses, stand between them."""
    refused: set[UUID] = set()
    ledger.takes = lambda event_id: event_id not in refused
    with running_relay(tmp_path, ledger, keep=LONG) as journal:
        kept, begun = set(), []
        for number in range(30):
            event = make_event()
            if number % 7 == 3:
                refused.add(event.id)
            elif number % 7 == 5:
                journal.begin_durably(event, PATIENCE)
                begun.append(event)
                continue
            else:
                kept.add(event.id)
            journal.finalize([event], PATIENCE)
        wait_for(lambda: ledger.events.keys() == kept)
        wait_for(lambda: kept.isdisjoint(e.id for e in waiting_in(tmp_path)))
        assert journal.file is not None
        path = journal.file.path
        assert len(refused) + len(begun) == journal.held == count_waiting(path)
        assert len(read_all(path)) == journal.held + journal.file.kept
        ledger.takes = lambda _: True
        journal.finalize(begun, PATIENCE)
    file = adopt(path, MAX_BYTES)
    assert (file.held, file.kept) == (0, 30)
    file.close()
