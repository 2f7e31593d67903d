"""A reader of a journal's file, SQLite in WAL mode. Any process may read while another writes."""

import os
import re
import sqlite3
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakSet

import orjson

from webapp.audit.event import event_key

PAGE = 4096

_COLUMNS = "select place, id, finalized, event, signature, excluded from events"
_ALL = f"{_COLUMNS} order by place"
_IS_KEPT = (
    "coalesce((select last from kept where first <= place order by first desc limit 1), 0) >= place"
)
_NEXT = f"{_COLUMNS} where finalized >= ? and place > ? and not {_IS_KEPT} order by place limit ?"  # noqa: S608 - the same
_BETWEEN = f"{_COLUMNS} where place between ? and ? order by place"  # noqa: S608 - the same
_WAITING = f"select count(*) from events where not {_IS_KEPT}"  # noqa: S608 - the same
_KEPT = "select first, last, at, history from kept order by at, first"
_CHOSEN = f"{_COLUMNS} where place in (select value from json_each(?)) order by place"  # noqa: S608 - the same
READ_ENDS = "select journal, last from ends"
_FROM_SETS = "from excluded_sets where digest in (select value from json_each(?)) order by digest"
_SETS = f"select members {_FROM_SETS}"
_SET_SIZES = f"select digest, length(members) {_FROM_SETS}"
_USED = "select page_count - freelist_count from pragma_page_count, pragma_freelist_count"
_IDS = re.compile(r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})*")


class Row(NamedTuple):
    place: int
    """The row's position in the file.

    Positions rise in the order in which rows are written. An access gets a new position when it
    ends, but its event keeps its number.
    """
    id: str
    """The event's UUID."""
    finalized: int
    """1 once the outcome of the access is known, else 0."""
    event: bytes
    """The event's canonical bytes, as `audit.event` dumps them."""
    signature: str
    """The origin signature over these bytes."""
    excluded: str | None = None
    """The digest of the set of tenants that the event's access left out."""

    @property
    def key(self) -> str:
        return event_key(self.id, self.event)


class Kept(NamedTuple):
    """Rows that the ledger has, and that stay in the file for a while: it might lose them again.

    They stand in successive places, and no other row stands between them.
    """

    first: int
    """The place of the first row."""
    last: int
    at: float
    """When the ledger was last known to have them, by the clock of `time.monotonic`, which all
    processes share until the host starts again."""
    history: str
    """The history of the ledger at that moment, as `audit.append.confirm` reports it."""

    @property
    def rows(self) -> int:
        return self.last - self.first + 1


class _Connection(sqlite3.Connection):
    """Raises `sqlite3.Error` too where SQLite's message repeats bytes of the file that are no text.

    Python raises `UnicodeDecodeError` then, which nobody takes for a damaged file.
    """

    def execute(self, *args: Any) -> sqlite3.Cursor:
        try:
            return super().execute(*args)
        except UnicodeDecodeError as error:
            raise sqlite3.DatabaseError("the journal is damaged") from error


def refuse_links(path: Path) -> None:
    """Raise `sqlite3.OperationalError` where a journal's file, or one of those that SQLite keeps
    beside it, is a link or no file: whoever made it would choose what is read and written.

    Python's SQLite has no way to say that no link be followed.
    """
    for ending in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            found = os.lstat(path.with_name(path.name + ending))
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise sqlite3.OperationalError("the journal is a link, or no file")


class JournalReader:
    """Reads a journal's file, which another process or thread may write meanwhile.

    One thread at a time may use it. A damaged file raises `sqlite3.Error`.
    """

    _least = 1
    """The least value of `finalized` that `read_finalized` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_links(path)
        # `rw` creates no file: a removed file must not come back as an empty one.
        self._connection = sqlite3.connect(
            f"{path.as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
        )
        try:
            refuse_links(path)
            self._set_up()
        except BaseException:
            self._connection.close()
            raise
        _here.add(self)

    def _set_up(self) -> None:
        (mode,) = self._connection.execute("pragma journal_mode = wal").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError("the journal's disk is not one for SQLite's WAL")

    def read_finalized(self, after: int, limit: int) -> list[Row]:
        """Return finalized rows after a place, in order, without those that are kept."""
        return _rows(self._connection.execute(_NEXT, (self._least, after, limit)))

    def read(self, places: Sequence[int]) -> list[Row]:
        """Return the rows at these places that are still there."""
        return _rows(self._connection.execute(_CHOSEN, (orjson.dumps(places).decode(),)))

    def read_between(self, first: int, last: int) -> list[Row]:
        return _rows(self._connection.execute(_BETWEEN, (first, last)))

    def read_kept(self) -> list[Kept]:
        """Return which rows are kept, those first that the ledger has had for longest."""
        return [Kept(*found) for found in self._connection.execute(_KEPT)]

    def read_sets(self, digests: Iterable[str]) -> list[str]:
        """Return the members of sets of excluded tenants that rows of the file name."""
        wanted = orjson.dumps(sorted(digests)).decode()
        return [members for (members,) in self._connection.execute(_SETS, (wanted,))]

    def measure_sets(self, digests: Iterable[str]) -> dict[str | None, int]:
        """Return how many bytes the members of these sets have, by digest."""
        wanted = orjson.dumps(sorted(digests)).decode()
        return dict(self._connection.execute(_SET_SIZES, (wanted,)).fetchall())

    def used_bytes(self) -> int:
        """Return how many bytes the rows take up. Deleting rows does not shrink the file itself."""
        return PAGE * int(self._connection.execute(_USED).fetchone()[0])

    def close(self) -> None:
        _here.discard(self)
        self._connection.close()

    def disown(self) -> None:
        """Release in the child of a fork what a subclass has inherited from the parent."""


def read_all(path: Path) -> list[Row]:
    """Return all rows of a file, whether its process is alive or not, without changing the file.

    A file that is gone has no rows.
    """
    return _rows(_select(path, _ALL))


def count_waiting(path: Path) -> int:
    """Count the rows of a file that the ledger is not known to have, likewise."""
    return sum(count for (count,) in _select(path, _WAITING))


def read_ends(path: Path) -> dict[str, int]:
    """Return the highest number of each journal that the ledger had of a file's rows, likewise."""
    return dict(_select(path, READ_ENDS))


def _select(path: Path, query: str) -> list[Any]:
    try:
        refuse_links(path)
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, factory=_Connection)
        try:
            if connection.execute("select 1 from sqlite_schema").fetchone() is None:
                return []  # its process is just creating it
            return connection.execute(query).fetchall()
        finally:
            connection.close()
            _sweep(path)
    except sqlite3.Error:
        if path.exists():
            raise
        return []


def _sweep(path: Path) -> None:
    """Remove the files that SQLite makes, and would leave, beside a file that was just removed."""
    if not path.exists():
        for ending in ("-wal", "-shm"):
            with suppress(OSError):
                path.with_name(path.name + ending).unlink()


def _rows(found: Iterable[Any]) -> list[Row]:
    rows = [Row._make(row) for row in found]
    if all(map(_has_its_types, rows)) and _IDS.fullmatch("".join([row.id for row in rows])):
        return rows
    raise sqlite3.DatabaseError("a row of the journal is damaged")


def _has_its_types(row: Row) -> bool:
    """Whether the values are of the table's types: of a damaged file they may be of any."""
    return (
        type(row.place) is type(row.finalized) is int
        and type(row.id) is type(row.signature) is str
        and type(row.event) is bytes
        and (row.excluded is None or type(row.excluded) is str)
    )


_here: WeakSet[JournalReader] = WeakSet()
_inherited: list[JournalReader] = []
"""Connections that the parent has open. SQLite forbids a child to close them, so they are kept."""


def _disown_all() -> None:
    for reader in list(_here):
        reader.disown()
        _inherited.append(reader)
    _here.clear()


os.register_at_fork(after_in_child=_disown_all)
