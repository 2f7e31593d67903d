"""Tests of the journal: each event is on disk once, with a number, after a bounded wait."""

import resource
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier
from uuid import UUID

import pytest

from tests.audit.events import make_event
from tests.audit.journal.journals import (
    MAX_BYTES,
    PATIENCE,
    SIGN,
    break_next,
    events_in,
    finalize,
    forgetting,
    hanging_disk,
    journal_in,
    line_of,
    numbers,
    outcomes,
    script,
    wait_until_written,
)
from tests.audit.receipts import wait_for
from webapp.audit.event import AuditEvent
from webapp.audit.journal.file import adopt, list_files
from webapp.audit.journal.reader import JournalReader, read_all
from webapp.audit.journal.service import Journal, JournalFailed

SHORT = 0.05


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.audit.journal.service.LATE", 0.0)


def fill(journal: Journal) -> None:
    with suppress(JournalFailed):
        while True:
            finalize(journal)


def test_finalized_events_are_on_disk_sealed_and_numbered(journal: Journal) -> None:
    events = [make_event(), make_event()]
    journal.finalize(events, PATIENCE)
    last = finalize(journal)
    (path,) = list_files(journal.directory)
    rows = read_all(path)
    assert [row.id for row in rows] == [str(event.id) for event in (*events, last)]
    assert all(row.finalized and row.signature == SIGN(row.event) for row in rows)
    assert numbers(events_in(journal.directory)) == [1, 2, 3]
    origins = {event.origin.journal for event in events_in(journal.directory) if event.origin}
    assert origins == {UUID(path.stem)}


def test_journal_makes_no_file_before_the_first_event(journal: Journal) -> None:
    assert not journal.directory.exists()
    assert journal.file is None
    assert journal.held == 0


def test_beginning_is_written_to_disk(journal: Journal) -> None:
    event = make_event(outcome="interrupted", http_status=None)
    journal.begin(event)
    wait_until_written(journal.directory, event.id)
    assert outcomes(journal.directory, event.id) == ["interrupted"]


def test_access_keeps_its_number_when_it_ends(journal: Journal) -> None:
    """Accesses may end in any order."""
    slow, quick, changing = (make_event(outcome="interrupted") for _ in range(3))
    journal.begin_durably(slow, PATIENCE)
    journal.begin_durably(changing, PATIENCE)
    journal.begin(quick)
    for event in (quick, slow, changing):
        journal.finalize([make_event(id=event.id)], PATIENCE)
    found = {event.id: event for event in events_in(journal.directory)}
    assert numbers([found[event.id] for event in (slow, changing, quick)]) == [1, 2, 3]
    assert outcomes(journal.directory, slow.id, quick.id, changing.id) == ["served"] * 3


def test_access_that_ends_last_is_read_last(journal: Journal) -> None:
    """A reader that has read up to a place misses no access that began earlier."""
    slow = make_event(outcome="interrupted")
    journal.begin_durably(slow, PATIENCE)
    quick = finalize(journal)
    assert journal.file is not None
    reader = JournalReader(journal.file.path)
    (first,) = reader.read_finalized(0, 10)
    journal.finalize([make_event(id=slow.id)], PATIENCE)
    (second,) = reader.read_finalized(first.place, 10)
    assert [first.id, second.id] == [str(quick.id), str(slow.id)]


def test_threads_that_wait_share_a_transaction(journal: Journal) -> None:
    first = finalize(journal)
    assert journal.file is not None
    statements: list[str] = []

    def inserts() -> int:
        """Count the inserts, each of which is a transaction by itself."""
        assert "commit" not in statements
        return sum(statement.startswith("insert") for statement in statements)

    with ThreadPoolExecutor(20) as threads:
        with hanging_disk(journal.file):
            journal.file._connection.set_trace_callback(statements.append)
            waiting = [threads.submit(finalize, journal)]
            wait_for(lambda: inserts() == 1)
            waiting += [threads.submit(finalize, journal) for _ in range(19)]
            wait_for(lambda: journal._queue._writes.qsize() == 19)
        made = [future.result(PATIENCE) for future in waiting]
    assert inserts() == 2
    assert Counter(event.id for event in events_in(journal.directory)) == Counter(
        event.id for event in [first, *made]
    )
    assert sorted(numbers(events_in(journal.directory))) == list(range(1, 22))


def test_many_threads_lose_and_double_no_event(journal: Journal) -> None:
    together = Barrier(16)

    def work(_: int) -> list[UUID]:
        together.wait()
        made = []
        for number in range(25):
            event = make_event(outcome="interrupted")
            if number % 2:
                journal.begin(event)
            journal.finalize([make_event(id=event.id)], PATIENCE)
            made.append(event.id)
        return made

    with ThreadPoolExecutor(16) as threads:
        made = [event_id for ids in threads.map(work, range(16)) for event_id in ids]
    events = events_in(journal.directory)
    assert Counter(event.id for event in events) == Counter(made)
    assert {event.outcome for event in events} == {"served"}
    assert sorted(numbers(events)) == list(range(1, 401))


def test_no_caller_waits_longer_than_its_timeout_for_a_hanging_disk(journal: Journal) -> None:
    finalize(journal)
    with hanging_disk(journal.file), ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(journal.finalize, [make_event()], SHORT) for _ in range(24)]
        waiting += [threads.submit(journal.begin_durably, make_event(), SHORT) for _ in range(24)]
        errors = [future.exception(PATIENCE) for future in waiting]
    assert all(isinstance(error, JournalFailed) for error in errors)


def test_event_whose_caller_gave_up_is_recorded_once(journal: Journal) -> None:
    """A write that has begun cannot be cancelled, so its outcome may be the one that stands."""
    finalize(journal)
    events = [make_event() for _ in range(3)]
    with hanging_disk(journal.file):
        for event in events:
            with pytest.raises(JournalFailed):
                journal.finalize([event], SHORT)
            journal.finalize_later([make_event(id=event.id, outcome="failed")])
    wait_until_written(journal.directory, *(event.id for event in events))
    finalize(journal)
    assert outcomes(journal.directory, *(e.id for e in events)) == ["served", "failed", "failed"]
    assert sorted(numbers(events_in(journal.directory))) == [1, 2, 3, 4, 5]


def test_second_outcome_of_an_access_is_ignored(journal: Journal) -> None:
    event = finalize(journal)
    journal.finalize_later([make_event(id=event.id, outcome="failed")])
    journal.finalize([make_event(id=event.id, outcome="failed")], PATIENCE)
    journal.begin(make_event(id=event.id, outcome="interrupted"))
    finalize(journal)
    finalize(journal)
    assert outcomes(journal.directory, event.id) == ["served"]


def test_write_requests_beyond_the_limit_are_refused(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that hangs for long must not make the process run out of memory."""
    monkeypatch.setattr("webapp.audit.journal.queue.WAITING_MAX", 10)
    finalize(journal)
    with hanging_disk(journal.file):
        with pytest.raises(JournalFailed):
            journal.finalize([make_event()], SHORT)
        begun = [make_event() for _ in range(5)]
        for event in begun:
            journal.begin(event)
        for _ in range(5):
            journal.finalize_later([make_event()])
        for hand_in in (journal.begin, lambda event: journal.finalize_later([event])):
            with pytest.raises(JournalFailed, match="too much"):
                hand_in(make_event())
    wait_until_written(journal.directory, *(event.id for event in begun))
    finalize(journal)


@pytest.mark.parametrize("later", [False, True])
def test_event_that_cannot_be_written_fails_alone(journal: Journal, *, later: bool) -> None:
    finalize(journal)
    bad = make_event(surface="\ud800")
    with ThreadPoolExecutor(3) as threads:
        with hanging_disk(journal.file):
            threads.submit(finalize, journal)
            if later:
                journal.finalize_later([bad])
            else:
                refused = threads.submit(journal.finalize, [bad], PATIENCE)
            good = threads.submit(finalize, journal)
        assert good.result(PATIENCE)
        assert later or isinstance(refused.exception(PATIENCE), JournalFailed)
    finalize(journal)
    assert sorted(numbers(events_in(journal.directory))) == [1, 2, 3, 4]
    assert journal._queue.late == []


def test_journal_tries_again_to_make_its_file(tmp_path: Path, impatient: None) -> None:
    blocked = tmp_path / "blocked"
    blocked.touch()
    with journal_in(blocked / "journal") as journal:
        with pytest.raises(JournalFailed):
            finalize(journal)
        late = make_event(outcome="failed")
        journal.finalize_later([late])
        blocked.unlink()
        served = finalize(journal)
        wait_until_written(journal.directory, late.id)
        assert outcomes(journal.directory, served.id, late.id) == ["served", "failed"]
        assert sorted(numbers(events_in(journal.directory))) == [1, 2]


@pytest.mark.parametrize("written", [False, True], ids=["not written", "written"])
def test_journal_continues_in_another_file_after_an_error(
    journal: Journal, impatient: None, *, written: bool
) -> None:
    """The failed file may hold its events, so each event must keep its number."""
    open_ = make_event(outcome="interrupted")
    journal.begin_durably(open_, PATIENCE)
    assert journal.file is not None
    broken = journal.file
    break_next(broken, sqlite3.SQLITE_IOERR_FSYNC, written=written)
    doubtful = make_event()
    with pytest.raises(JournalFailed):
        journal.finalize([doubtful], PATIENCE)
    journal.finalize_later([make_event(id=doubtful.id, outcome="failed")])
    with pytest.raises(JournalFailed):
        journal.finalize([make_event(id=open_.id)], PATIENCE)
    journal.finalize_later([make_event(id=open_.id, outcome="failed")])
    finalize(journal)
    finalize(journal)
    assert journal.file is not None
    assert journal.file.path != broken.path
    for event, number in ((open_, 1), (doubtful, 2)):
        found_events = [found for found in events_in(journal.directory) if found.id == event.id]
        assert {found.origin for found in found_events if found.origin} == {found_events[0].origin}
        assert found_events[0].origin is not None
        assert (found_events[0].origin.journal, found_events[0].origin.seq) == (
            broken.origin,
            number,
        )
    assert adopt(broken.path, MAX_BYTES).held == 1 + written


def test_beginning_in_a_failed_transaction_is_written_to_the_next_file(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later events have later numbers, so its number would be missing if the process died."""
    monkeypatch.setattr("webapp.audit.journal.service.LATE", 0.0)
    finalize(journal)
    assert journal.file is not None
    break_next(journal.file, sqlite3.SQLITE_IOERR_FSYNC, written=False)
    begun = make_event(outcome="interrupted")
    journal.begin(begun)
    wait_for(lambda: begun.id in {event.id for event in events_in(journal.directory)})
    assert outcomes(journal.directory, begun.id) == ["interrupted"]
    with pytest.raises(JournalFailed):  # the failed file may hold it as interrupted
        journal.finalize([make_event(id=begun.id)], PATIENCE)
    journal.finalize_later([make_event(id=begun.id, outcome="failed")])
    wait_for(lambda: outcomes(journal.directory, begun.id) == ["failed"])


def test_forgetting_rows_of_a_failed_file_does_not_touch_the_next_file(
    journal: Journal,
) -> None:
    finalize(journal)
    broken = journal.file
    assert broken is not None
    break_next(broken, sqlite3.SQLITE_IOERR_WRITE, written=False)
    with pytest.raises(JournalFailed):
        finalize(journal)
    kept = finalize(journal)
    journal.note(broken, forgetting([1]))
    finalize(journal)
    finalize(journal)
    assert outcomes(journal.directory, kept.id) == ["served"]


def test_full_journal_can_be_emptied_under_load(tmp_path: Path) -> None:
    """Other threads go on finalizing events meanwhile."""
    with journal_in(tmp_path, max_bytes=2**17) as journal:
        for _ in range(3):
            fill(journal)
            file = journal.file
            assert file is not None
            full = journal.held
            assert full > 20
            places = [row.place for row in JournalReader(file.path).read_finalized(0, 1000)]
            with ThreadPoolExecutor(4) as threads:
                for _ in range(4):
                    threads.submit(finalize, journal)
                journal.note(file, forgetting(places))
            finalize(journal)
            assert journal.file is file
            assert journal.held < full


def test_full_file_finalizes_its_open_accesses_or_refuses_them(
    tmp_path: Path, impatient: None
) -> None:
    with journal_in(tmp_path, max_bytes=2**17) as journal:
        begun = [make_event(outcome="interrupted") for _ in range(5)]
        for event in begun:
            journal.begin_durably(event, PATIENCE)
        fill(journal)
        for event in begun:
            try:
                journal.finalize([make_event(id=event.id)], PATIENCE)
            except JournalFailed:
                journal.finalize_later([make_event(id=event.id, outcome="failed")])
        file = journal.file
        assert file is not None
        rows = JournalReader(file.path).read_finalized(0, 9)
        journal.note(file, forgetting([row.place for row in rows]))
        finalize(journal)
        finalize(journal)
        assert set(outcomes(tmp_path, *(event.id for event in begun))) <= {"served", "failed"}


@pytest.mark.slow
def test_failing_disk_costs_a_file_and_no_event(tmp_path: Path) -> None:
    """The kernel's limit to the size of a file makes the disk fail."""
    code = f"""
import resource, signal
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, {resource.RLIM_INFINITY}))
journal.finalize([make_event()], PATIENCE)
limit(200_000)
while True:
    event = make_event()
    try:
        journal.finalize([event], PATIENCE)
    except JournalFailed:
        break
    report(event.id)
limit({resource.RLIM_INFINITY})
journal.finalize_later([make_event(id=event.id, outcome="failed")])
after = make_event()
journal.finalize([after], PATIENCE)
journal.close(PATIENCE)
report("failed", event.id, after.id)
"""
    finalized = []
    with script(code, tmp_path) as process:
        while len(line := line_of(process)) == 1:
            finalized += line
    _, failed, after = line
    assert len(finalized) > 10
    served = outcomes(tmp_path, *map(UUID, [*finalized, after]))
    assert set(served) == {"served"}
    found_events = [event for event in events_in(tmp_path) if str(event.id) == failed]
    assert "failed" in {event.outcome for event in found_events}
    assert len({event.origin for event in found_events}) == 1
    assert len(list_files(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("locked", [False, True], ids=["at rest", "locked"])
def test_child_of_a_fork_has_its_own_journal(tmp_path: Path, *, locked: bool) -> None:
    """The journal's lock may be held by another thread during the fork."""
    code = f"""
from threading import Event, Thread

journal.finalize([make_event()], PATIENCE)
journal.begin(make_event())
while journal.held < 2:
    time.sleep(0.01)
time.sleep(0.1)
held, done = Event(), Event()

def hold():
    with journal._queue.lock:
        held.set()
        done.wait()

if {locked}:
    Thread(target=hold).start()
    held.wait()
child = os.fork()
if child == 0:
    journal.finalize([make_event()], PATIENCE)
    journal.finalize([make_event()], PATIENCE)
    os._exit(0)
done.set()
_, status = os.waitpid(child, 0)
journal.finalize([make_event()], PATIENCE)
report(status)
time.sleep(60)
"""
    with script(code, tmp_path) as process:
        assert line_of(process) == ["0"]
        process.kill()
    by_file = [sorted(numbers(events_of_file(path))) for path in list_files(tmp_path)]
    assert sorted(by_file) == [[1, 2], [1, 2, 3]]


def events_of_file(path: Path) -> list[AuditEvent]:
    return [event for event in events_in(path.parent) if str(event.origin).count(path.stem)]
