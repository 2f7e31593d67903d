"""Drain the journal files of dead processes into the ledger by hand, without the broker."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic

from webapp.audit.append import Confirmation
from webapp.audit.journal.file import JournalFile, Locked, adopt, is_held, list_files
from webapp.audit.journal.reader import Row, count_waiting
from webapp.audit.relay.outbox import Confirm, Outbox

Commit = Callable[[JournalFile, Sequence[Row]], Confirmation]
"""Commits rows of a file, and says which of them the ledger has then."""


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
            held += _count(path) or 0
        except FileNotFoundError:
            continue  # another process was faster
        except (OSError, sqlite3.Error):
            unreadable.append(path.name)
    return AdoptedFiles(tuple(files), held, tuple(unreadable))


def drain(
    file: JournalFile, commit: Commit, confirm: Confirm, keep: float
) -> Iterator[tuple[int, int]]:
    """Commit a file's events batch by batch; yields how many of how many were committed.

    Events that the ledger refuses stay in the file, and for `keep` seconds those that it has. What
    it had, and has lost since, is committed again. Raises `Unreadable` where the file is damaged.
    """
    try:
        box = Outbox(file, file.note_now, ahead=inf)
        history = confirm([]).history
        while box.ask_again(history, confirm) is not None:
            pass
        now = monotonic()
        while rows := box.take(now):
            found = commit(file, rows)
            box.note_sent(rows, now)
            yield box.note_found(found), len(rows)
        while box.forget(monotonic() - keep, history):
            pass
    except sqlite3.Error as error:
        raise Unreadable(file.path.name) from error
    finally:
        file.close()


def count_left(directory: Path) -> WaitingEvents:
    """Count the events that wait in the files of dead and of living processes."""
    dead, living, unreadable = 0, 0, []
    for path in list_files(directory):
        waiting = _count(path)
        if waiting is None:
            unreadable.append(path.name)
        elif is_held(path):
            living += waiting
        else:
            dead += waiting
    return WaitingEvents(dead, living, tuple(unreadable))


def _count(path: Path) -> int | None:
    """Count the events that wait in a file; `None` where it is damaged or may not be read.

    In a file that its process has emptied and removed meanwhile none does.
    """
    try:
        return count_waiting(path)
    except sqlite3.Error:
        return None if path.exists() else 0
