"""Reading a journal's file, SQLite in WAL mode: any process may, while another writes it."""

import os
import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakSet

import orjson

PAGE = 4096

_COLUMNS = "select place, id, finalized, event, mac from events"
_ALL = f"{_COLUMNS} order by place"  # noqa: S608 - a constant
_NEXT = f"{_COLUMNS} where finalized >= ? and place > ? order by place limit ?"  # noqa: S608 - the same
_CHOSEN = f"{_COLUMNS} where place in (select value from json_each(?)) order by place"  # noqa: S608 - the same
_USED = "select page_count - freelist_count from pragma_page_count, pragma_freelist_count"
_IDS = re.compile(r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})*")


class Row(NamedTuple):
    place: int
    """Where it stands in the file: places rise with the order in which rows are written, and an
    access gets another when it ends. An event's number is another thing, and does not change."""
    id: str
    """A UUID."""
    finalized: int
    """1 once its outcome is known."""
    event: bytes
    """Canonical bytes, as `audit.event` dumps them."""
    mac: str


class JournalReader:
    """Reads a file while somebody else may write it. For one thread at a time.

    What SQLite cannot make sense of raises `sqlite3.Error`.
    """

    _least = 1
    """Rows that have only begun are 0, finalized ones 1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # As it stands: a file that is gone must not come back as an empty one.
        self._connection = sqlite3.connect(
            f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False
        )
        try:
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
        """Rows beyond a place, in order."""
        return _rows(self._connection.execute(_NEXT, (self._least, after, limit)))

    def read(self, places: Sequence[int]) -> list[Row]:
        """The rows in those places, as far as they are still there."""
        return _rows(self._connection.execute(_CHOSEN, (orjson.dumps(places).decode(),)))

    def used_bytes(self) -> int:
        """What its rows take up. It keeps its size when they go, for those that follow."""
        return PAGE * int(self._connection.execute(_USED).fetchone()[0])

    def close(self) -> None:
        _here.discard(self)
        self._connection.close()

    def disown(self) -> None:
        """In the child of a fork: what else there is to let go of."""


def read_all(path: Path) -> list[Row]:
    """What a file holds, its process alive or not; nothing is changed. None if it is gone."""
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            if connection.execute("select 1 from sqlite_schema").fetchone() is None:
                return []  # it is being made
            return _rows(connection.execute(_ALL))
        finally:
            connection.close()
            _sweep(path)
    except sqlite3.Error:
        if path.exists():
            raise
        return []


def _sweep(path: Path) -> None:
    """SQLite makes its files beside one that was removed just now, and would leave them there."""
    if not path.exists():
        for ending in ("-wal", "-shm"):
            with suppress(OSError):
                path.with_name(path.name + ending).unlink()


def _rows(found: Iterable[Any]) -> list[Row]:
    rows = [Row._make(row) for row in found]
    try:
        sound = _IDS.fullmatch("".join([row.id for row in rows]))
    except TypeError:
        sound = None
    if sound is None:
        raise sqlite3.DatabaseError("a row of the journal is damaged")
    return rows


_here: WeakSet[JournalReader] = WeakSet()
_inherited: list[JournalReader] = []
"""What a parent has open: SQLite forbids its children even to close it, so nobody ever does."""


def _disown_all() -> None:
    for reader in list(_here):
        reader.disown()
        _inherited.append(reader)
    _here.clear()


os.register_at_fork(after_in_child=_disown_all)
