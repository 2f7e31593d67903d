"""The file of a journal, written by one process.

A row is an event as it would stand in the ledger. When an access begins, its event is written as
interrupted. When the outcome is known, the event is written anew. So the process that finds a dead
process's file has nothing to reconstruct, and nothing to write.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
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
"""Rows in one INSERT statement."""
SETS_KEPT = 16
"""Sets of excluded tenants that stay though no event names them any more: the next one may."""

_SCHEMA = (
    """
create table if not exists events (
  place integer primary key,
  id text not null,
  finalized integer not null,
  event blob not null,
  mac text not null,
  excluded text
) strict
""",
    "create index if not exists events_excluded on events (excluded) where excluded is not null",
    """
create table if not exists excluded_sets (
  place integer primary key,
  digest text not null unique,
  members text not null
) strict
""",
    f"""
create trigger if not exists forget_sets after delete on events when old.excluded is not null
begin
  delete from excluded_sets
  where place <= (select max(place) from excluded_sets) - {SETS_KEPT}
    and digest not in (select excluded from events where excluded is not null);
end
""",  # noqa: S608 - a constant
)
_ADD_SET = "insert or ignore into excluded_sets (digest, members) values (?, ?)"
_DELETE = "delete from events where place in (select value from json_each(?))"


_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
"""How a file is opened that is to be there: never what a link leads to."""
_NEW = _OPEN | os.O_EXCL

NO_SETS: Mapping[str, str] = {}

Statement = tuple[str, Sequence[Any]]
"""SQL, and the values of its placeholders."""


def _deletion(places: Sequence[int]) -> Iterator[Statement]:
    if places:
        yield _DELETE, (orjson.dumps(list(places)).decode(),)


def _additions(sets: Mapping[str, str]) -> Iterator[Statement]:
    for digest, members in sets.items():
        yield _ADD_SET, (digest, members)


def _insertions(rows: Sequence[Row]) -> Iterator[Statement]:
    for start in range(0, len(rows), PER_STATEMENT):
        some = rows[start : start + PER_STATEMENT]
        yield _insert(len(some)), list(chain.from_iterable(some))


@cache
def _insert(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, ?, ?, ?)"] * rows)
    return f"insert into events (place, id, finalized, event, mac, excluded) values {values}"  # noqa: S608 - placeholders only


class Locked(Exception):
    """The process that holds the file is alive."""


class JournalFile(JournalReader):
    """A journal's file, locked by this process for as long as the process lives.

    All rows of an adopted file are read as finalized: an access that has only begun in it will
    never end.
    """

    def __init__(self, path: Path, lock: int, max_bytes: int, *, adopted: bool) -> None:
        self._lock = lock
        self._max_pages = max(16, max_bytes // PAGE)
        self._durable: bool | None = None
        self.held = 0
        """The number of rows in the file; any thread may read it."""
        if adopted:
            self._least = 0
        super().__init__(path)

    def _set_up(self) -> None:
        super()._set_up()
        run = self._connection.execute
        run(f"pragma max_page_count = {self._max_pages}")
        run("pragma wal_autocheckpoint = 0")  # SQLite would not report that its fsync failed
        run("begin immediate")
        for statement in _SCHEMA:
            run(statement)
        run("commit")
        self.held = run("select count(place) from events").fetchone()[0]

    @cached_property
    def origin(self) -> UUID:
        return UUID(self.path.stem)

    def write(
        self,
        rows: Sequence[Row] = (),
        *,
        forgotten: Sequence[int] = (),
        sets: Mapping[str, str] = NO_SETS,
        durable: bool,
    ) -> None:
        """Insert rows, the sets of tenants that they name, and delete the forgotten rows, in one
        transaction.

        With `durable`, these rows and all earlier ones are on disk when this returns. Without it,
        they survive the end of the process, but not a failure of the machine.
        """
        if durable is not self._durable:
            self._connection.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            self._durable = durable
        deletion = [*_deletion(forgotten)]
        statements = [*deletion, *_additions(sets), *_insertions(rows)]
        run = self._run_one if len(statements) == 1 else self._run_all
        changed = run(statements)
        self.held += len(rows) - sum(changed[: len(deletion)])

    def _run_one(self, statements: Sequence[Statement]) -> list[int]:
        """Run one statement, which is a transaction by itself.

        Each statement releases the interpreter's lock, and has to compete for it with all the
        requests. So `begin` and `commit` are left out here.
        """
        return [self._connection.execute(*statements[0]).rowcount]

    def _run_all(self, statements: Sequence[Statement]) -> list[int]:
        run = self._connection.execute
        run("begin immediate")
        try:
            changed = [run(*statement).rowcount for statement in statements]
            run("commit")
        except BaseException:
            with suppress(sqlite3.Error):  # a commit that failed may have rolled back by itself
                run("rollback")
            raise
        return changed

    def forget_now(self, places: Sequence[int]) -> None:
        """Delete rows of a file that no process writes any more.

        A full or failing disk raises no error. The file is removed when the ledger has all of its
        rows; until then, more of them may be sent twice.
        """
        try:
            self.write(forgotten=places, durable=False)
        except sqlite3.Error:
            self.held -= len(places)

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the file, as far as no reader prevents it."""
        self._connection.execute("pragma wal_checkpoint(passive)").fetchone()

    def close(self) -> None:
        """Close and unlock the file; remove it if it has no rows left."""
        try:
            super().close()
            if self.held <= 0:
                _remove(self.path)
        finally:
            os.close(self._lock)

    def disown(self) -> None:
        """Close the lock's descriptor in the child of a fork: the lock belongs to the parent."""
        os.close(self._lock)


def create(directory: Path, origin: UUID, max_bytes: int) -> JournalFile:
    """Create a file that is locked before any process can find it.

    Raises `OSError` or `sqlite3.Error`.
    """
    _make(directory)
    path = directory / f"{origin}{SUFFIX}"
    lock = os.open(path.with_suffix(LOCK_SUFFIX), _NEW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # SQLite gives the files beside it the same mode.
        os.close(os.open(path, _NEW, 0o600))
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

    Raises `Locked` while that process lives, `FileNotFoundError` where another process was faster,
    and `sqlite3.Error` or `OSError` where the file cannot be read.
    """
    lock = os.open(path.with_suffix(LOCK_SUFFIX), _OPEN, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists() or path.stat().st_size == 0:
            _remove(path)  # its process wrote nothing, or only the lock's file was left
            raise FileNotFoundError(path)
        return JournalFile(path, lock, max_bytes, adopted=True)
    except BlockingIOError as error:
        os.close(lock)
        raise Locked(path) from error
    except BaseException:
        os.close(lock)
        raise


def is_held(path: Path) -> bool:
    """Whether a running process holds a journal's file."""
    try:
        lock = os.open(path.with_suffix(LOCK_SUFFIX), os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def list_files(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{SUFFIX}"))


def _remove(path: Path) -> None:
    """Remove a journal's file and the files beside it.

    The lock's file goes last: while the lock is held, no other process touches these files.
    """
    for ending in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    path.with_suffix(LOCK_SUFFIX).unlink(missing_ok=True)


def _make(directory: Path) -> None:
    """Make a directory, and its parents, so that they survive a loss of power."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
        _sync(directory.parent)


def _sync(directory: Path) -> None:
    """Flush a directory: a new file in it could lose its name in a loss of power otherwise."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
