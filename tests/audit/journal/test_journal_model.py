"""A state machine that tests the journal with random operations, disk failures and process deaths.

Each event has one number, each number has one event, and each finalized event has an outcome that
was given for it.
"""

import shutil
import sqlite3
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

from tests.audit.events import make_event
from tests.audit.journal.journals import MAX_BYTES, PATIENCE, SIGN, break_next, forgetting
from webapp.audit.event import AuditEvent, EventOrigin, Outcome, load_event
from webapp.audit.journal.file import Locked, adopt, list_files
from webapp.audit.journal.reader import Row, read_all
from webapp.audit.journal.service import Journal, JournalFailed

pytestmark = pytest.mark.slow

FAULTS = [
    (sqlite3.SQLITE_FULL, False),
    (sqlite3.SQLITE_IOERR_WRITE, False),
    (sqlite3.SQLITE_IOERR_FSYNC, True),
]


class JournalMachine(RuleBasedStateMachine):
    accesses = Bundle("accesses")
    finalized = Bundle("finalized")

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="sightline-test-"))
        self.late = mock.patch("webapp.audit.journal.service.LATE", 0.0)
        self.late.start()
        self.journal = Journal(self.home / "journal", SIGN, MAX_BYTES)
        self.open: set[UUID] = set()
        self.outcomes: dict[UUID, set[Outcome]] = {}
        """The outcomes given for each access that has ended; several where a write failed."""
        self.ledger: dict[UUID, AuditEvent] = {}
        """The committed events. As in the real ledger, the first version of an event stays."""
        self.noted: set[tuple[Path, int]] = set()
        """The files and places of rows that were noted as forgotten, perhaps not deleted yet."""
        self.has_left = False
        """Whether a file that is no longer written to may hold open accesses."""

    @rule(target=accesses, durably=st.booleans())
    def begin(self, *, durably: bool) -> UUID:
        event = make_event(outcome="interrupted", http_status=None)
        self.open.add(event.id)
        try:
            if durably:
                self.journal.begin_durably(event, PATIENCE)
            else:
                self.journal.begin(event)
        except JournalFailed:
            self.record_later(event.id, "failed")
        return event.id

    @rule(target=finalized, access=consumes(accesses), denied=st.integers(0, 2))
    def finalize(self, access: UUID, denied: int) -> UUID:
        """Finalize an answer's accesses: one that has begun, and some that need no beginning."""
        events = [make_event(id=access), *(make_event() for _ in range(denied))]
        try:
            self.journal.finalize(events, PATIENCE)
        except JournalFailed:
            for event in events:
                self.outcomes.setdefault(event.id, {"served"})
                self.record_later(event.id, "failed")
        else:
            for event in events:
                self.open.discard(event.id)
                self.outcomes.setdefault(event.id, {"served"})
        return access

    @rule(target=finalized, access=consumes(accesses))
    def finalize_later(self, access: UUID) -> UUID:
        self.record_later(access, "failed")
        return access

    @rule(event_id=finalized, waits=st.booleans())
    def repeat_outcome(self, event_id: UUID, *, waits: bool) -> None:
        """Give another outcome, which must not change the first one."""
        again = make_event(id=event_id, outcome="denied")
        self.flush()
        if waits:
            try:
                self.journal.finalize([again], PATIENCE)
            except JournalFailed:
                return
        else:
            self.journal.finalize_later([again])

    @rule(fault=st.sampled_from(FAULTS))
    def fail_next(self, fault: tuple[int, bool]) -> None:
        if self.journal.file is not None:
            code, written = fault
            self.has_left = True
            break_next(self.journal.file, code, written=written)

    @rule(which=st.sets(st.integers(0, 4)))
    def forget(self, which: set[int]) -> None:
        """Forget rows that the ledger has, each once, as the relay does: a file counts them.

        The number of rows at this moment is not deterministic, so no drawn value may depend on it.
        """
        file = self.journal.file
        if file is None:
            return
        rows = [row for row in read_all(file.path) if row.finalized]
        some = [row for number, row in enumerate(rows) if number % 5 in which]
        chosen = [row for row in some if (file.path, row.place) not in self.noted]
        self.noted |= {(file.path, row.place) for row in chosen}
        self.commit(chosen)
        self.journal.note(file, forgetting([row.place for row in chosen]))

    @rule()
    def adopt(self) -> None:
        """Bring the rows of failed files to the ledger."""
        for file in self.adoptable(self.home / "journal"):
            rows = file.read_finalized(0, 10**6)
            self.commit(rows)
            file.note_now(forgetting([row.place for row in rows]))
            file.close()

    @rule()
    def close(self) -> None:
        self.has_left = True
        self.journal.close(PATIENCE)

    @rule()
    def die(self) -> None:
        """Check what another process would find if this one were killed now."""
        self.flush()
        wreck = Path(tempfile.mkdtemp(dir=self.home))
        if self.journal.directory.exists():
            shutil.copytree(self.journal.directory, wreck / "journal")
        found = defaultdict[UUID, list[AuditEvent]](list)
        for event_id, event in self.ledger.items():
            found[event_id].append(event)
        for file in self.adoptable(wreck / "journal"):
            for row in file.read_finalized(0, 10**6):
                found[UUID(row.id)].append(load_event(row.event))
            file.close()
        self.check(found)

    def teardown(self) -> None:
        try:
            for access in list(self.open):
                self.record_later(access, "failed")
            self.die()
        finally:
            self.journal.close(PATIENCE)
            self.late.stop()
            shutil.rmtree(self.home)

    def record_later(self, access: UUID, outcome: Outcome) -> None:
        self.open.discard(access)
        self.outcomes.setdefault(access, set()).add(outcome)
        self.journal.finalize_later([make_event(id=access, outcome=outcome)])

    def flush(self) -> None:
        """Return when all earlier write requests have been written."""
        for _ in range(2):  # late requests are written after those that wait
            while True:
                event = make_event()
                try:
                    self.journal.finalize([event], PATIENCE)
                except JournalFailed:
                    self.outcomes[event.id] = {"served"}
                    self.record_later(event.id, "failed")
                else:
                    self.outcomes[event.id] = {"served"}
                    break

    def adoptable(self, directory: Path) -> list[Any]:
        files = []
        for path in list_files(directory):
            try:
                files.append(adopt(path, MAX_BYTES))
            except (Locked, FileNotFoundError):
                continue
        return files

    def commit(self, rows: list[Row]) -> None:
        for row in rows:
            self.ledger.setdefault(UUID(row.id), load_event(row.event))

    def check(self, found: dict[UUID, list[AuditEvent]]) -> None:
        numbers: dict[EventOrigin, UUID] = {}
        by_journal = defaultdict[UUID, set[int]](set)
        for event_id, events in found.items():
            origin = events[0].origin
            assert origin is not None
            assert {event.origin for event in events} == {origin}, "an event with two numbers"
            assert numbers.setdefault(origin, event_id) == event_id, "a number with two events"
            by_journal[origin.journal].add(origin.seq)
            if event_id in self.open:
                assert {event.outcome for event in events} == {"interrupted"}
            else:
                assert {event.outcome for event in events} <= self.expected_outcomes(event_id)
            if not self.has_left:
                assert len(events) <= 1 + (event_id in self.ledger)
        assert found.keys() >= self.outcomes.keys(), "a finalized event that is gone"
        assert found.keys() <= self.outcomes.keys() | self.open
        if not self.has_left or not self.open:
            for seqs in by_journal.values():
                assert seqs == set(range(1, len(seqs) + 1)), "a gap"

    def expected_outcomes(self, event_id: UUID) -> set[Outcome]:
        """Return the outcomes that an event may have in the files and the ledger.

        A file that was left may hold an access as interrupted, but never one that was served.
        """
        given = self.outcomes[event_id]
        return given | {"interrupted"} if self.has_left and given != {"served"} else given


JournalMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, derandomize=True
)
TestJournal = JournalMachine.TestCase
