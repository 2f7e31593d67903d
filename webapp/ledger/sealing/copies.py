"""What a host keeps of the log off the database: the last checkpoint, and the entries before it.

`CHECKPOINT_DIR` has a directory for each log. `checkpoint` is replaced in one step, and never by
one that does not continue it. The segments `entries-<first index>` have the leaves of recent
entries and their events' ids: where the database loses them and journals bring the events back, the
same leaves are sealed in the same order.
"""

import fcntl
import os
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import time
from uuid import UUID

import orjson

from webapp.audit.journal.file import sync_directory
from webapp.ledger.sealing.keys import LogKeys, origin_of
from webapp.ledger.sealing.note import NOTE_BYTES, NoteError, open_checkpoint

SEGMENT_ENTRIES = 8_192
MAX_BYTES = 256 * 2**20
"""What all segments of a log may take together."""

_CHECKPOINT = "checkpoint"
_PREFIX = "entries-"
_NOTHING = "-"
_HOSTS, _BEHIND = "hosts", "behind"


class UnreadableCopy(Exception):
    """A copy that is damaged, or that this log's key has not signed. The text says where it is."""


@dataclass(frozen=True)
class Copy:
    """The last checkpoint that a host has."""

    log: int
    origin: str
    size: int
    root: bytes
    note: str
    place: str
    """For people: where it is."""


@dataclass(frozen=True)
class CopiedEntry:
    index: int
    event_id: UUID | None
    leaf: bytes


class Copies:
    """The directory of one host's copies."""

    def __init__(self, directory: Path, keys: LogKeys, keep: float, host: str) -> None:
        """`keep`: seconds for which entries are kept: journals may still have their events."""
        self._directory = directory
        self._keys = keys
        self._keep = keep
        self._host = host

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the directory, if no other process of this host does."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True

    def read(self) -> Copy | None:
        """Read the checkpoint of the latest log; raises `UnreadableCopy`."""
        numbers = self._logs()
        return self._read(numbers[-1]) if numbers else None

    def _logs(self) -> list[int]:
        """The logs with a checkpoint here."""
        found = self._directory.glob(f"*/{_CHECKPOINT}")
        return sorted(int(path.parent.name) for path in found if path.parent.name.isdecimal())

    def _read(self, log: int) -> Copy:
        path = self._of(log) / _CHECKPOINT
        origin = origin_of(self._keys.origin, log)
        try:
            with path.open("rb") as file:
                data = file.read(NOTE_BYTES + 1)
            checkpoint, note = open_checkpoint(data, self._keys.verifiers(origin))
        except (OSError, NoteError) as error:
            raise UnreadableCopy(f"{path} on {self._host} cannot be believed: {error}") from error
        if checkpoint.origin != origin:
            raise UnreadableCopy(f"{path} on {self._host} is of {checkpoint.origin}")
        place = f"{path} on {self._host}"
        return Copy(log, origin, checkpoint.size, checkpoint.root, data.decode(), place)

    def replace(self, log: int, note: str) -> None:
        """Put a checkpoint in the place of the last one, which it has to continue."""
        directory = self._of(log)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(directory / _CHECKPOINT, note.encode())

    def add(self, log: int, entries: Sequence[CopiedEntry]) -> None:
        """Write entries behind those that are there; the segments stay within their bounds."""
        directory = self._of(log)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        segments = _segments(directory)
        path = segments[-1] if segments else None
        for first in range(0, len(entries), SEGMENT_ENTRIES):
            part = entries[first : first + SEGMENT_ENTRIES]
            if path is None or part[0].index - _first_of(path) >= SEGMENT_ENTRIES:
                path = directory / f"{_PREFIX}{part[0].index:020d}"
            _append(path, part)
        self._forget(directory)

    def clear(self, log: int) -> None:
        """Remove the entries of a log: those that follow would not continue them."""
        for path in _segments(self._of(log)):
            path.unlink()

    def entries(self, log: int, first: int, end: int) -> list[CopiedEntry]:
        """Read entries; raises `UnreadableCopy` unless all of them are here."""
        found: dict[int, CopiedEntry] = {}
        for path in _segments(self._of(log)):
            if _first_of(path) < end:
                found |= {e.index: e for e in _read_segment(path) if first <= e.index < end}
        entries = [found[index] for index in range(first, end) if index in found]
        if len(entries) < end - first:
            raise UnreadableCopy(
                f"{self._of(log)} on {self._host} has {len(entries)} of the {end - first} entries"
                " that the database lacks"
            )
        return entries

    def note_hosts(self, hosts: Sequence[str]) -> None:
        """Keep the names of the other hosts that follow the log. A restored database may not."""
        if hosts != self.known_hosts():
            self._write(_HOSTS, orjson.dumps(list(hosts)))

    def known_hosts(self) -> list[str]:
        try:
            found = orjson.loads((self._directory / _HOSTS).read_bytes())
        except (OSError, ValueError):
            return []
        return [name for name in found if isinstance(name, str)]

    def behind_since(self, now: datetime) -> datetime:
        """Return when it was first seen that the database is behind, which is now if it is new."""
        try:
            return datetime.fromisoformat((self._directory / _BEHIND).read_text())
        except (OSError, ValueError):
            self._write(_BEHIND, now.isoformat().encode())
            return now

    def is_well(self) -> None:
        """Forget that the database was behind."""
        (self._directory / _BEHIND).unlink(missing_ok=True)

    def _write(self, name: str, data: bytes) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(self._directory / name, data)

    def _of(self, log: int) -> Path:
        return self._directory / str(log)

    def _forget(self, directory: Path) -> None:
        """Remove the segments that no journal can have events of any more, and what is too much."""
        *older, _ = _segments(directory)
        sizes = {path: path.stat() for path in older}
        total = sum(found.st_size for found in sizes.values())
        for path, found in sizes.items():
            if total <= MAX_BYTES and time() - found.st_mtime < self._keep:
                break
            total -= found.st_size
            path.unlink()


def replace_file(path: Path, data: bytes) -> None:
    """Put a file in another's place in one step, so that it survives a loss of power."""
    written = path.with_name(f"{path.name}.new")
    with written.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)
    sync_directory(path.parent)


def _segments(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"{_PREFIX}*"))


def _first_of(segment: Path) -> int:
    return int(segment.name.removeprefix(_PREFIX))


def _append(path: Path, entries: Sequence[CopiedEntry]) -> None:
    lines = "".join(
        [
            f"{entry.index} {entry.event_id or _NOTHING} {b64encode(entry.leaf).decode()}\n"
            for entry in entries
        ]
    )
    with path.open("ab") as file:
        _cut_torn_line(path, file.tell())
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def _cut_torn_line(path: Path, size: int) -> None:
    """Cut off the beginning of a line that a process had no time to end."""
    if size == 0:
        return
    with path.open("r+b") as file:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _read_segment(path: Path) -> Iterator[CopiedEntry]:
    """Read the whole lines of a segment: the last one may be torn."""
    with suppress(FileNotFoundError):
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                index, event_id, leaf = line.decode("ascii").split(" ")
                event = None if event_id == _NOTHING else UUID(event_id)
                yield CopiedEntry(int(index), event, b64decode(leaf, validate=True))
            except (ValueError, Base64Error) as error:
                raise UnreadableCopy(f"{path} is damaged") from error
