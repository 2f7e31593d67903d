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
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import structlog

from webapp.audit.journal import ends
from webapp.audit.journal.reader import PAGE, READ_ENDS, JournalReader, Kept, Row

log = structlog.get_logger()

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
  signature text not null,
  excluded text
) strict
""",
    """
create table if not exists kept (
  first integer primary key,
  last integer not null,
  at real not null,
  history text not null
) strict
""",
    """
create table if not exists ends (journal text primary key, last integer not null) strict
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
_RANGE = (
    "json_each(?) r cross join events e"
    " on e.place between json_extract(r.value, '$[0]') and json_extract(r.value, '$[1]')"
)
_DELETE_RANGES = f"delete from events where place in (select e.place from {_RANGE})"  # noqa: S608 - constants
_KEEP = (
    "insert into kept select json_extract(value, '$[0]'), json_extract(value, '$[1]'),"
    " json_extract(value, '$[2]'), json_extract(value, '$[3]') from json_each(?)"
)
_KEEP_NO_LONGER = (
    "delete from kept where first in (select json_extract(value, '$[0]') from json_each(?))"
)
_NOTE_ENDS = f"""
insert into ends
  select journal, max(seq) from (
    select json_extract(event, '$.origin.journal') as journal,
      json_extract(event, '$.origin.seq') as seq
    from (select cast(e.event as text) as event from {_RANGE}) where json_valid(event)
  ) where typeof(journal) = 'text' and typeof(seq) = 'integer' group by journal
on conflict (journal) do update set last = max(last, excluded.last)
"""  # noqa: S608 - constants
_COUNT_KEPT = "select coalesce(sum(last - first + 1), 0) from kept"


_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
"""How a file is opened that is to be there: never what a link leads to."""
_NEW = _OPEN | os.O_EXCL

NO_SETS: Mapping[str, str] = {}

Statement = tuple[str, Sequence[Any]]
"""SQL, and the values of its placeholders."""


@dataclass(frozen=True, slots=True)
class Notes:
    """What a file is to note about rows since the ledger was asked about them."""

    kept: Sequence[Kept] = ()
    """The ledger has these."""
    released: Sequence[Kept] = ()
    """These are kept no longer: whether the ledger has them is open again."""
    forgotten: Sequence[Kept] = ()
    """These were kept for long enough, and are deleted."""

    def __bool__(self) -> bool:
        return bool(self.kept or self.released or self.forgotten)


def _statements(notes: Notes) -> Iterator[Statement]:
    if notes.released:
        yield _KEEP_NO_LONGER, _json(notes.released)
    if notes.kept:
        yield _KEEP, _json(notes.kept)
        yield _NOTE_ENDS, _json(notes.kept)
    if notes.forgotten:
        yield _DELETE_RANGES, _json(notes.forgotten)
        yield _KEEP_NO_LONGER, _json(notes.forgotten)


def _json(ranges: Sequence[Kept]) -> tuple[str]:
    return (orjson.dumps([tuple(kept) for kept in ranges]).decode(),)


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
    return f"insert into events (place, id, finalized, event, signature, excluded) values {values}"  # noqa: S608 - placeholders only


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
        """The number of rows that the ledger is not known to have; any thread may read it."""
        self.kept = 0
        """The number of rows that the ledger has, and that stay for a while."""
        if adopted:
            self._least = 0
        super().__init__(path)

    def _set_up(self) -> None:
        super()._set_up()
        run = self._connection.execute
        self._limit_pages(self._max_pages)
        run("pragma wal_autocheckpoint = 0")  # SQLite would not report that its fsync failed
        run("begin immediate")
        for statement in _SCHEMA:
            run(statement)
        run("commit")
        self.kept = run(_COUNT_KEPT).fetchone()[0]
        self.held = run("select count(place) from events").fetchone()[0] - self.kept

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
        self._make_durable(durable=durable)
        deletion = [*_deletion(forgotten)]
        statements = [*deletion, *_additions(sets), *_insertions(rows)]
        run = self._run_one if len(statements) == 1 else self._run_all
        changed = run(statements)
        self.held += len(rows) - sum(changed[: len(deletion)])

    def _limit_pages(self, pages: int) -> None:
        self._connection.execute(f"pragma max_page_count = {pages}")

    def _make_durable(self, *, durable: bool) -> None:
        if durable is not self._durable:
            self._connection.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            self._durable = durable

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

    def note(self, notes: Sequence[Notes]) -> None:
        """Note in one transaction, in this order, what the ledger was found to have.

        A loss of power may undo it. The ledger is asked again then.
        """
        self._make_durable(durable=False)
        self._limit_pages(2 * self._max_pages)  # a file that is full must still shrink
        try:
            self._run_all([statement for some in notes for statement in _statements(some)])
        finally:
            self._limit_pages(self._max_pages)
        for some in notes:
            self._count(some)

    def note_now(self, notes: Notes) -> None:
        """Note it in a file that no process writes any more.

        A full or failing disk raises no error. The file is removed when none of its rows is needed;
        until then, more of them may be sent twice.
        """
        try:
            self.note([notes])
        except sqlite3.Error:
            self._count(notes)

    def _count(self, notes: Notes) -> None:
        kept = sum(some.rows for some in notes.kept) - sum(some.rows for some in notes.released)
        self.held -= kept
        self.kept += kept - sum(some.rows for some in notes.forgotten)

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the file, as far as no reader prevents it."""
        self._connection.execute("pragma wal_checkpoint(passive)").fetchone()

    def close(self) -> None:
        """Close and unlock the file; remove it if it has no rows left."""
        try:
            last = self._read_ends() if self._is_empty else {}
            super().close()
            if self._is_empty:
                ends.record(self.path.parent, last)
                _remove(self.path)
        finally:
            os.close(self._lock)

    @property
    def _is_empty(self) -> bool:
        return self.held <= 0 and self.kept <= 0

    def _read_ends(self) -> dict[str, int]:
        try:
            return dict(self._connection.execute(READ_ENDS).fetchall())
        except sqlite3.Error as error:
            log.error("journal_end_unknown", journal=self.path.stem, exc_info=error)
            return {}

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
        sync_directory(directory)
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
        sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Flush a directory: a new file in it could lose its name in a loss of power otherwise."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
