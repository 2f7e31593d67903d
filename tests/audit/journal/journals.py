"""Journals for tests, faults of their disks, and the events in their files."""

import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.audit.events import make_event
from webapp.audit.event import AuditEvent, load_event
from webapp.audit.journal import ends
from webapp.audit.journal.file import JournalFile, Notes, list_files
from webapp.audit.journal.reader import JournalReader, Kept, Row, read_all
from webapp.audit.journal.service import Journal
from webapp.audit.signature import sign_event
from webapp.signing_key import SigningKey

ROOT = Path(__file__).parents[3]
KEY = SigningKey("k" * 43)
SIGN = partial(sign_event, KEY)
MAX_BYTES = 2**24
PATIENCE = 180.0

PRELUDE = """
import os, sys, time
from pathlib import Path
import structlog
from tests.audit.events import make_event
from tests.audit.journal.journals import SIGN, MAX_BYTES, PATIENCE
from webapp.audit.event import load_event
from webapp.audit.journal.service import Journal, JournalFailed

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
journal = Journal(Path(sys.argv[1]), SIGN, MAX_BYTES)

def report(*words):
    print(*words, flush=True)
"""


@contextmanager
def journal_in(directory: Path, max_bytes: int = MAX_BYTES) -> Iterator[Journal]:
    journal = Journal(directory, SIGN, max_bytes)
    yield journal
    journal.close(PATIENCE)


@contextmanager
def script(code: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Run code in a process of its own, with a journal in `directory`."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, str(directory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def line_of(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


@contextmanager
def hanging_disk(file: JournalFile | None) -> Iterator[None]:
    """Make every write to the file wait."""
    assert file is not None
    file._connection.execute(f"pragma busy_timeout = {PATIENCE * 1000:.0f}")
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("begin immediate")
    try:
        yield
    finally:
        other.execute("rollback")
        other.close()


def events_in(directory: Path) -> list[AuditEvent]:
    """Return all events in a directory's files, in order."""
    return [load_event(row.event) for path in list_files(directory) for row in read_all(path)]


def waiting_in(directory: Path) -> list[AuditEvent]:
    """Return the events in a directory's files that the ledger is not known to have."""
    return [load_event(row.event) for path in list_files(directory) for row in read_waiting(path)]


def read_waiting(path: Path) -> list[Row]:
    rows = read_all(path)
    try:
        with closing(JournalReader(path)) as reader:
            kept = reader.read_kept()
    except sqlite3.OperationalError:  # its process has removed it meanwhile
        kept = []
    return [row for row in rows if not any(some.first <= row.place <= some.last for some in kept)]


def left_in(directory: Path) -> list[str]:
    """Return the names of what is in a directory of journals, apart from their ends."""
    return sorted(path.name for path in directory.iterdir() if path.name != ends.NAME)


def forgetting(places: Iterable[int]) -> Notes:
    """What is noted of rows that the ledger has, where they are not kept."""
    rows = [Kept(place, place, 0.0, "history") for place in places]
    return Notes(kept=rows, forgotten=rows)


def numbers(events: Sequence[AuditEvent]) -> list[int]:
    return [event.origin.seq for event in events if event.origin is not None]


def wait_until_written(directory: Path, *ids: UUID) -> None:
    from tests.audit.receipts import wait_for  # a process with a journal starts without the ledger

    wait_for(lambda: {event.id for event in events_in(directory)} >= set(ids))


def break_next(file: JournalFile, code: int, *, written: bool) -> None:
    """Make the file's next transaction fail, before anything or after everything was written."""
    error = sqlite3.OperationalError("injected")
    error.sqlite_errorcode = code
    real = file.write

    def write(*rows: Any, **options: Any) -> None:
        file.write = real  # type: ignore[method-assign]  # it fails once
        if written:
            real(*rows, **options)
        raise error

    file.write = write  # type: ignore[method-assign]  # of this file only


def finalize(journal: Journal, **changes: object) -> AuditEvent:
    event = make_event(**changes)
    journal.finalize([event], PATIENCE)
    return event


def outcomes(directory: Path, *ids: UUID) -> list[str]:
    """Return the outcomes of these events in the files, in this order; each must be there once."""
    events = events_in(directory)
    found = {event.id: event.outcome for event in events}
    assert all(Counter(event.id for event in events)[event_id] == 1 for event_id in ids)
    return [found[event_id] for event_id in ids]
