"""Drain the journal files of dead processes into the ledger by hand, without the broker."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from webapp.audit.journal.file import JournalFile, Locked, adopt, is_held, list_files
from webapp.audit.journal.reader import Row, read_all

BATCH = 500

Commit = Callable[[JournalFile, Sequence[Row]], set[str]]
"""Commits rows of a file, and returns the keys of those events that the ledger has now."""


class Unreadable(Exception):
    """A file, or the rest of it, is damaged or may not be read; the text names the file."""


@dataclass(frozen=True)
class AdoptedFiles:
    """The adopted files of a directory, and how many events its other files hold."""

    files: tuple[JournalFile, ...]
    held_by_living: int
    """Events in the files of running processes, which send them themselves."""
    unreadable: tuple[str, ...]

    @property
    def events(self) -> int:
        return sum(file.held for file in self.files)


@dataclass(frozen=True)
class WaitingEvents:
    """The number of events in a directory's files, which stay as they are."""

    by_dead: int
    by_living: int
    unreadable: tuple[str, ...]


def adopt_all(directory: Path, max_bytes: int) -> AdoptedFiles:
    """Adopt the files that no living process holds. The caller drains, and so closes, each file."""
    files, held, unreadable = [], 0, []
    for path in list_files(directory):
        try:
            files.append(adopt(path, max_bytes))
        except Locked:
            held += len(_read(path) or ())
        except FileNotFoundError:
            continue  # another process was faster
        except (OSError, sqlite3.Error):
            unreadable.append(path.name)
    return AdoptedFiles(tuple(files), held, tuple(unreadable))


def drain(file: JournalFile, commit: Commit) -> Iterator[tuple[int, int]]:
    """Commit a file's events batch by batch; yields how many of how many were committed.

    Events that the ledger refuses stay in the file. Raises `Unreadable` where the file is damaged.
    """
    last = 0
    try:
        while rows := file.read_finalized(last, BATCH):
            last = rows[-1].place
            committed = commit(file, rows)
            taken = [row.place for row in rows if row.key in committed]
            file.forget_now(taken)
            yield len(taken), len(rows)
    except sqlite3.Error as error:
        raise Unreadable(file.path.name) from error
    finally:
        file.close()


def count_waiting(directory: Path) -> WaitingEvents:
    """Count the events that wait in the files of dead and of living processes."""
    dead, living, unreadable = 0, 0, []
    for path in list_files(directory):
        rows = _read(path)
        if rows is None:
            unreadable.append(path.name)
        elif is_held(path):
            living += len(rows)
        else:
            dead += len(rows)
    return WaitingEvents(dead, living, tuple(unreadable))


def _read(path: Path) -> list[Row] | None:
    """Return a file's rows, or `None` where the file is damaged or may not be read.

    A file that its process has emptied and removed meanwhile has no rows.
    """
    try:
        return read_all(path)
    except sqlite3.Error:
        return None if path.exists() else []
