"""The file behind a journal, written by one process.

A row is an event as it would stand in the ledger. It is written when its access begins, as one that
was interrupted, and anew when its outcome is known; so whoever finds the file of a dead process has
nothing to reconstruct, and nothing to write.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from webapp.audit.journal.reader import PAGE, JournalReader, Row

SUFFIX, LOCK_SUFFIX = ".journal", ".lock"
PER_STATEMENT = 500
"""Rows of one insert."""

_SCHEMA = """
create table if not exists events (
  place integer primary key,
  id text not null,
  finalized integer not null,
  event blob not null,
  mac text not null
) strict
"""
_DELETE = "delete from events where place in (select value from json_each(?))"


Statement = tuple[str, Sequence[Any]]
"""SQL, and what its placeholders stand for."""


def _deletion(places: Sequence[int]) -> Iterator[Statement]:
    if places:
        yield _DELETE, (orjson.dumps(list(places)).decode(),)


def _insertions(rows: Sequence[Row]) -> Iterator[Statement]:
    for start in range(0, len(rows), PER_STATEMENT):
        some = rows[start : start + PER_STATEMENT]
        yield _insert(len(some)), list(chain.from_iterable(some))


@cache
def _insert(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, ?, ?)"] * rows)
    return f"insert into events (place, id, finalized, event, mac) values {values}"  # noqa: S608 - nothing but placeholders


class Locked(Exception):
    """The file's process is alive."""


class JournalFile(JournalReader):
    """A file that is held by this process, and by no other while it lives.

    An adopted one's rows are all read as finalized: what has only begun there will not end.
    """

    def __init__(self, path: Path, lock: int, max_bytes: int, *, adopted: bool) -> None:
        self._lock = lock
        self._max_pages = max(16, max_bytes // PAGE)
        self._durable: bool | None = None
        self.held = 0
        """How many rows there are; any thread may ask."""
        if adopted:
            self._least = 0
        super().__init__(path)

    def _set_up(self) -> None:
        super()._set_up()
        run = self._connection.execute
        run(f"pragma max_page_count = {self._max_pages}")
        run("pragma wal_autocheckpoint = 0")  # SQLite would not tell that its fsync failed
        run(_SCHEMA)
        self.held = run("select count(place) from events").fetchone()[0]

    @cached_property
    def origin(self) -> UUID:
        return UUID(self.path.stem)

    def write(
        self, rows: Sequence[Row] = (), *, forgotten: Sequence[int] = (), durable: bool
    ) -> None:
        """Put rows in the place of those that are forgotten, all of it or nothing.

        What is durable is on disk when this returns, and with it all that came before; anything
        else survives the process, but not the machine.
        """
        if durable is not self._durable:
            self._connection.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            self._durable = durable
        statements = [*_deletion(forgotten), *_insertions(rows)]
        run = self._run_one if len(statements) == 1 else self._run_all
        deleted = run(statements) - len(rows)
        self.held += len(rows) - deleted

    def _run_one(self, statements: Sequence[Statement]) -> int:
        """A transaction by itself: each that is run gives up the interpreter's lock, and has to
        wait for it among all the requests."""
        return self._connection.execute(*statements[0]).rowcount

    def _run_all(self, statements: Sequence[Statement]) -> int:
        run = self._connection.execute
        run("begin immediate")
        try:
            changed = sum([run(*statement).rowcount for statement in statements])
            run("commit")
        except BaseException:
            with suppress(sqlite3.Error):  # a commit that failed may have rolled back by itself
                run("rollback")
            raise
        return changed

    def forget_now(self, places: Sequence[int]) -> None:
        """Forget, where nobody writes any more. A disk that is full or failing is no hindrance:
        the file goes when nothing in it is needed, and until then more of it may be brought twice.
        """
        try:
            self.write(forgotten=places, durable=False)
        except sqlite3.Error:
            self.held -= len(places)

    def checkpoint(self) -> None:
        """Fold what was written beside the file into it, as far as no reader stands in the way."""
        self._connection.execute("pragma wal_checkpoint(passive)").fetchone()

    def close(self) -> None:
        """Let go of it; one that holds nothing any more is removed."""
        try:
            super().close()
            if self.held <= 0:
                _remove(self.path)
        finally:
            os.close(self._lock)

    def disown(self) -> None:
        """In the child of a fork: the lock is the parent's alone."""
        os.close(self._lock)


def create(directory: Path, origin: UUID, max_bytes: int) -> JournalFile:
    """A new file, locked before anybody can find it; raises `OSError` or `sqlite3.Error`."""
    _make(directory)
    path = directory / f"{origin}{SUFFIX}"
    lock = os.open(path.with_suffix(LOCK_SUFFIX), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.touch(mode=0o600)  # what SQLite puts beside it takes after it
        file = JournalFile(path, lock, max_bytes, adopted=False)
        _sync(directory)
    except BaseException:
        with suppress(OSError):
            _remove(path)
        os.close(lock)
        raise
    return file


def adopt(path: Path, max_bytes: int) -> JournalFile:
    """Take over the file of a dead process.

    Raises `Locked` while it lives, `FileNotFoundError` where somebody else was faster, and
    `sqlite3.Error` or `OSError` for what cannot be read.
    """
    lock = os.open(path.with_suffix(LOCK_SUFFIX), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists() or path.stat().st_size == 0:
            _remove(path)  # its process did not come to write anything, or a lock was left
            raise FileNotFoundError(path)
        return JournalFile(path, lock, max_bytes, adopted=True)
    except BlockingIOError as error:
        os.close(lock)
        raise Locked(path) from error
    except BaseException:
        os.close(lock)
        raise


def list_files(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{SUFFIX}"))


def _remove(path: Path) -> None:
    """A file and what stands beside it, the lock last: as long as that is held, nobody else does
    anything here."""
    for ending in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    path.with_suffix(LOCK_SUFFIX).unlink(missing_ok=True)


def _make(directory: Path) -> None:
    """A directory that is still there when the machine has lost its power."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
        _sync(directory.parent)


def _sync(directory: Path) -> None:
    """Without it a new file may have no name after the machine has lost its power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
