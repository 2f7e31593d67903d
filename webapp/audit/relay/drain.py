"""Bringing what dead processes left in their files to the ledger by hand, without the broker."""

import fcntl
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from webapp.audit.journal import file as journal_file
from webapp.audit.journal import reader as journal_reader
from webapp.audit.journal.file import LOCK_SUFFIX, JournalFile, Locked
from webapp.audit.journal.reader import Row

BATCH = 500

Commit = Callable[[Sequence[Row]], set[str]]
"""Commits a file's rows, and returns the ids of those events that the ledger has now."""


class Unreadable(Exception):
    """A file, or the rest of it, is damaged or not ours to read; the text names it."""


@dataclass(frozen=True)
class Found:
    """The files of a directory: those that could be taken over, and how much the others hold."""

    files: tuple[JournalFile, ...]
    held_by_living: int
    """Events that their running processes bring away themselves."""
    unreadable: tuple[str, ...]

    @property
    def events(self) -> int:
        return sum(file.held for file in self.files)


@dataclass(frozen=True)
class WaitingEvents:
    """What a directory's files hold, none of them touched."""

    by_dead: int
    by_living: int
    unreadable: tuple[str, ...]


def find(directory: Path, max_bytes: int) -> Found:
    """Take over what no living process holds; `drain` each of the files, which closes it."""
    files, held, unreadable = [], 0, []
    for path in journal_file.list_files(directory):
        try:
            files.append(journal_file.adopt(path, max_bytes))
        except Locked:
            held += len(_read(path) or ())
        except FileNotFoundError:
            continue  # somebody else was faster
        except (OSError, sqlite3.Error):
            unreadable.append(path.name)
    return Found(tuple(files), held, tuple(unreadable))


def drain(file: JournalFile, commit: Commit) -> Iterator[tuple[int, int]]:
    """Commit a file's events batch by batch; yields how many were taken of how many.

    What the ledger refuses stays in the file. Raises `Unreadable` where the file is damaged.
    """
    last = 0
    try:
        while rows := file.read_finalized(last, BATCH):
            last = rows[-1].place
            committed = commit(rows)
            taken = [row.place for row in rows if row.id in committed]
            file.forget_now(taken)
            yield len(taken), len(rows)
    except sqlite3.Error as error:
        raise Unreadable(file.path.name) from error
    finally:
        file.close()


def count_waiting(directory: Path) -> WaitingEvents:
    """Count what waits in the files, and whose they are."""
    dead, living, unreadable = 0, 0, []
    for path in journal_file.list_files(directory):
        rows = _read(path)
        if rows is None:
            unreadable.append(path.name)
        elif _is_held(path):
            living += len(rows)
        else:
            dead += len(rows)
    return WaitingEvents(dead, living, tuple(unreadable))


def _read(path: Path) -> list[Row] | None:
    """A file's rows, none where its process has emptied it meanwhile; `None` where it is damaged or
    not ours to read."""
    try:
        return journal_reader.read_all(path)
    except sqlite3.Error:
        return None if path.exists() else []


def _is_held(path: Path) -> bool:
    with suppress(FileNotFoundError), path.with_suffix(LOCK_SUFFIX).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
