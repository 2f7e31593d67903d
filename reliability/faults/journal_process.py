"""A process that keeps a journal as a web process does, and prints each step.

It prints an event before it hands it to the journal, and what the journal promised afterwards. Its
files have names that are known beforehand, checkpoints come early, and what was refused is written
again soon: a short life makes all the system calls of a long one. Run it as `python -m
reliability.faults.journal_process DIRECTORY`.
"""

import itertools
import os
import sqlite3
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest import mock
from uuid import UUID

import structlog

from tests.audit.events import make_event
from tests.audit.journal.journals import MAX_BYTES, PATIENCE, SIGN, forgetting
from webapp.audit.event import AuditEvent, load_event
from webapp.audit.journal.reader import JournalReader
from webapp.audit.journal.service import Journal, JournalFailed

ROUNDS = 8
FORGET_EVERY = 3
EARLY = 3 * 2**14
SOON = 0.02

CRASH = "crash"
"""The second argument: end without closing anything."""


def name_of(number: int) -> UUID:
    """The name of the journal's first file, its second, and so on."""
    return UUID(int=number)


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    names = map(name_of, itertools.count(1))
    with (
        mock.patch("webapp.audit.journal.writer.uuid4", side_effect=names),
        mock.patch("webapp.audit.journal.writer.CHECKPOINT", EARLY),
        mock.patch("webapp.audit.journal.service.LATE", SOON),
    ):
        journal = Journal(Path(sys.argv[1]), SIGN, MAX_BYTES)
        for number in range(ROUNDS):
            _work(journal, number)
        if CRASH in sys.argv[2:]:
            os._exit(0)
        journal.close(PATIENCE)


def _work(journal: Journal, number: int) -> None:
    match number % 4:
        case 0:
            _finalize(journal, [_begin(journal)])
        case 1:
            _finalize(journal, [_new_event(), _new_event()])
        case 2:
            changed = _new_event(kind="change")
            try:
                journal.begin_durably(replace(changed, outcome="interrupted"), PATIENCE)
            except JournalFailed:
                _refused(journal, [changed])
            else:
                _print("begun", changed)
                _finalize(journal, [changed])
        case 3:
            _begin(journal)
            _finalize(journal, [_new_event(), _begin(journal)])
    if number % FORGET_EVERY == FORGET_EVERY - 1:
        _forget(journal)


def _new_event(**changes: object) -> AuditEvent:
    event = make_event(origin=None, **changes)
    _print("given", event)
    return event


def _begin(journal: Journal) -> AuditEvent:
    event = _new_event()
    journal.begin(replace(event, outcome="interrupted", http_status=None))
    return event


def _finalize(journal: Journal, events: list[AuditEvent]) -> None:
    try:
        journal.finalize(events, PATIENCE)
    except JournalFailed:
        _refused(journal, events)
    else:
        for event in events:
            _print("acknowledged", event)


def _refused(journal: Journal, events: list[AuditEvent]) -> None:
    for event in events:
        _print("refused", event)
    journal.finalize_later([replace(event, outcome="failed", http_status=503) for event in events])


def _forget(journal: Journal) -> None:
    """Read rows, commit them and have them forgotten, as the relay does."""
    file = journal.file
    if file is None:
        return
    with suppress(sqlite3.Error, OSError):
        reader = JournalReader(file.path)
        try:
            rows = reader.read_finalized(0, 4)
        finally:
            reader.close()
        for row in rows:
            print("committed", row.event.decode(), flush=True)  # noqa: T201 - what it is for
            assert str(load_event(row.event).id) == row.id
        journal.note(file, forgetting([row.place for row in rows]))


def _print(word: str, event: AuditEvent) -> None:
    sys.stdout.write(f"{word} {event.id}\n")  # in one call, for whoever reads them
    sys.stdout.flush()


if __name__ == "__main__":
    main()
