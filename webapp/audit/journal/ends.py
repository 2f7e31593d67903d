"""Each journal's end: the highest number that the ledger is known to have had of it.

A journal's own file has it, too, for as long as the file is there. When the file goes, its ends go
to this file of all of a host's journals. So a database that was restored from an older backup shows
which numbers it lacks, though neither it nor any journal has their events.
"""

import os
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from uuid import UUID

import structlog

from webapp.audit.journal.reader import read_ends, refuse_links

log = structlog.get_logger()

NAME = "ends.sqlite"
PATIENCE = 10.0
"""Seconds that a process waits while others record theirs."""

_SCHEMA = """
create table if not exists ends (
  journal text primary key,
  last integer not null,
  removed_at text not null
) strict
"""
_RECORD = """
insert into ends values (?, ?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
on conflict (journal) do update
  set last = max(last, excluded.last), removed_at = excluded.removed_at
"""


def record(directory: Path, ends: Mapping[str, int]) -> None:
    """Record ends on disk. Where the disk refuses, the log has them."""
    if not ends:
        return
    try:
        _record(directory / NAME, ends)
    except (sqlite3.Error, OSError) as error:
        log.error("journal_end_not_recorded", ends=dict(ends), exc_info=error)


def _record(path: Path, ends: Mapping[str, int]) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    refuse_links(path)
    with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as connection:
        connection.execute("pragma synchronous = full")
        connection.execute("begin immediate")
        connection.execute(_SCHEMA)
        connection.executemany(_RECORD, ends.items())
        connection.execute("commit")


def read_recorded(directory: Path) -> dict[UUID, int]:
    """Return the ends of the journals whose files are gone; raises `sqlite3.Error`."""
    path = directory / NAME
    return _by_id(read_ends(path)) if path.exists() else {}


def read_noted(path: Path) -> dict[UUID, int]:
    """Return the ends that a journal's file has; raises `sqlite3.Error`."""
    return _by_id(read_ends(path))


def combine(*found: Mapping[UUID, int]) -> dict[UUID, int]:
    """Return the highest number of each journal."""
    last: defaultdict[UUID, int] = defaultdict(int)
    for some in found:
        for journal, seq in some.items():
            last[journal] = max(last[journal], seq)
    return dict(last)


def _by_id(ends: Mapping[str, int]) -> dict[UUID, int]:
    try:
        return {UUID(journal): last for journal, last in ends.items()}
    except ValueError as error:
        raise sqlite3.DatabaseError("an end's journal is no UUID") from error
