"""The log as anybody may read it: checkpoints, tiles and entries, and the proof of one event."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.audit.models import SigningKeyRow
from webapp.http.errors import NotFound, NotSealed
from webapp.ledger.sealing import store
from webapp.ledger.sealing.leaf import EventLeaf, encode_bytes, parse_leaf
from webapp.ledger.sealing.merkle import HASH_BYTES, inclusion_proof_at
from webapp.ledger.sealing.models import (
    LogCosignatureRow,
    LogEntryRow,
    LogKeyRow,
    LogRow,
    LogTileRow,
)
from webapp.ledger.sealing.note import Verifier, parse_verifier
from webapp.ledger.sealing.proof import InclusionProof
from webapp.ledger.sealing.tiles import TileIndex, TileReader, encode_entries

FIRST = 1
"""The number of the first log. Another follows only where a restore has lost entries for good."""


@dataclass(frozen=True)
class PublishedLog:
    """A log, and the keys that have signed its checkpoints."""

    number: int
    origin: str
    state: str
    """`open`, or `closed` where another one has taken its place."""
    size: int
    verifiers: tuple[Verifier, ...]

    @property
    def keys(self) -> list[str]:
        return [str(verifier) for verifier in self.verifiers]

    @property
    def path(self) -> str:
        """Where it is served. Each log has a place of its own: what is cached stays true."""
        return path_of(self.number)


@dataclass(frozen=True)
class EventSigner:
    """A key of a process that signs events when they are first written."""

    fingerprint: str
    process: str
    public_key: str
    registered_at: datetime
    retired_at: datetime | None
    """Since when nothing more is committed under it."""


def list_signers(session: Session) -> list[EventSigner]:
    """List the keys that sign events, and those that once did."""
    columns = (SigningKeyRow.fingerprint, SigningKeyRow.process, SigningKeyRow.public_key)
    moments = (SigningKeyRow.registered_at, SigningKeyRow.retired_at)
    rows = session.execute(select(*columns, *moments).order_by(SigningKeyRow.registered_at))
    return [
        EventSigner(
            fingerprint,
            process,
            encode_bytes(bytes(key)),
            registered_at.astimezone(UTC),
            None if retired_at is None else retired_at.astimezone(UTC),
        )
        for fingerprint, process, key, registered_at, retired_at in rows
    ]


def path_of(number: int) -> str:
    return "/log" if number == FIRST else f"/log/{number}"


def list_logs(session: Session) -> list[PublishedLog]:
    """List all logs, the open one first."""
    keys = select(LogKeyRow.log, LogKeyRow.verifier).order_by(LogKeyRow.since, LogKeyRow.verifier)
    verifiers: dict[int, list[Verifier]] = {}
    for log, text in session.execute(keys):
        verifiers.setdefault(log, []).append(parse_verifier(text))
    columns = (LogRow.number, LogRow.origin, LogRow.state, LogRow.size)
    rows = session.execute(select(*columns).order_by(LogRow.number.desc()))
    return [PublishedLog(*row, tuple(verifiers.get(row.number, ()))) for row in rows]


def read_checkpoint(session: Session, number: int) -> bytes:
    """Return a log's newest checkpoint, with the cosignatures on it; raises `NotFound`."""
    return read_sized_checkpoint(session, number)[1]


def read_sized_checkpoint(session: Session, number: int) -> tuple[int, bytes]:
    """Return the size of a log, and the checkpoint of that size."""
    found = select(LogRow.size, LogRow.checkpoint).where(LogRow.number == number)
    row = session.execute(found).one_or_none()
    if row is None or row.checkpoint is None:
        raise NotFound("Nothing is sealed in this log.")
    lines = select(LogCosignatureRow.line).where(
        LogCosignatureRow.log == number, LogCosignatureRow.size == row.size
    )
    cosigned = session.scalars(lines.order_by(LogCosignatureRow.name))
    note = row.checkpoint + "".join([line.rstrip("\n") + "\n" for line in cosigned])
    return row.size, note.encode()


def read_tile(session: Session, number: int, level: int, index: TileIndex) -> bytes:
    """Return as many hashes of a tile as the index says; raises `NotFound`."""
    length = index.width * HASH_BYTES
    found = select(func.substr(LogTileRow.hashes, 1, length)).where(
        LogTileRow.log == number, LogTileRow.level == level, LogTileRow.n == index.n
    )
    hashes = bytes(session.scalar(found) or b"")
    if len(hashes) < length:
        raise NotFound("The log has no such tile.")
    return hashes


def read_entries(session: Session, number: int, index: TileIndex) -> bytes:
    """Return a bundle of entries; raises `NotFound` unless the log has all of them."""
    found = select(LogEntryRow.leaf).where(
        LogEntryRow.log == number,
        LogEntryRow.index >= index.first,
        LogEntryRow.index < index.end,
    )
    entries = [bytes(leaf) for leaf in session.scalars(found.order_by(LogEntryRow.index))]
    if len(entries) < index.width:
        raise NotFound("The log has no such entries.")
    return encode_entries(entries)


def prove(session: Session, event_id: UUID) -> tuple[InclusionProof, EventLeaf]:
    """Prove that the log has an event's entry, and return what that says.

    Raises `NotSealed` where the event is not sealed yet.
    """
    found = select(LogEntryRow.log, LogEntryRow.index, LogEntryRow.leaf)
    entry = session.execute(found.where(LogEntryRow.event_id == event_id)).one_or_none()
    if entry is None:
        raise NotSealed("The event is committed, and not sealed yet: ask again in a moment.")
    log, index, data = entry
    leaf = parse_leaf(bytes(data))
    assert isinstance(leaf, EventLeaf)  # noqa: S101 - a heartbeat is of no event
    size, checkpoint = read_sized_checkpoint(session, log)
    hashes = inclusion_proof_at(index, size, tile_reader(session, log, size))
    return InclusionProof(index, tuple(hashes), checkpoint), leaf


def tile_reader(session: Session, number: int, size: int) -> TileReader:
    """Return what reads the hashes of a log's tree of this size."""
    return TileReader(partial(store.read_tile, session, number), size)
