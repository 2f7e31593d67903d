"""Tests of closing a journal: what waits is written, and a hanging disk delays nothing."""

from pathlib import Path
from threading import Thread

import pytest

from tests.audit.events import make_event
from tests.audit.journal.journals import (
    MAX_BYTES,
    PATIENCE,
    events_in,
    finalize,
    hanging_disk,
    journal_in,
    numbers,
    outcomes,
    wait_until_written,
)
from tests.audit.receipts import wait_for
from webapp.audit.journal.file import adopt, list_files
from webapp.audit.journal.service import Journal, JournalFailed

SHORT = 0.05


def test_closing_writes_what_waits_and_a_later_event_begins_anew(journal: Journal) -> None:
    begun, late, open_ = make_event(), make_event(outcome="failed"), make_event()
    journal.begin_durably(open_, PATIENCE)
    journal.begin(begun)
    journal.finalize_later([late])
    journal.close(PATIENCE)
    assert journal.file is None
    assert {event.id for event in events_in(journal.directory)} == {begun.id, late.id, open_.id}
    (path,) = list_files(journal.directory)
    adopt(path, MAX_BYTES).close()
    with pytest.raises(JournalFailed):
        journal.finalize([open_], PATIENCE)
    journal.finalize_later([make_event(id=open_.id, outcome="failed")])
    again = finalize(journal)
    journal.close(PATIENCE)
    assert len(list_files(journal.directory)) == 2
    assert outcomes(journal.directory, begun.id, again.id) == ["served", "served"]
    origins = {event.origin for event in events_in(journal.directory) if event.id == open_.id}
    assert len(origins) == 1


def test_closing_does_not_wait_for_a_hanging_disk(journal: Journal) -> None:
    finalize(journal)
    late = make_event()
    with hanging_disk(journal.file):
        journal.finalize_later([late])
        journal.close(SHORT)
    wait_until_written(journal.directory, late.id)
    wait_for(lambda: journal.file is None)


def test_failing_callback_does_not_stop_the_journal(journal: Journal) -> None:
    def fail() -> None:
        raise RuntimeError("cannot start a thread")

    journal.on_finalized = fail
    finalize(journal)
    finalize(journal)
    assert numbers(events_in(journal.directory)) == [1, 2]


def test_event_refused_for_lack_of_a_thread_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller got an error, so the event must not be written later."""

    def refuse(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    with journal_in(tmp_path) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(Thread, "start", refuse)
            refused = make_event()
            for hand_in in (journal.begin, lambda event: journal.finalize([event], PATIENCE)):
                with pytest.raises(JournalFailed, match="thread"):
                    hand_in(refused)
        served = finalize(journal)
        assert [event.id for event in events_in(tmp_path)] == [served.id]
