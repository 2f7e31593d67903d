"""The tables of the log, read and written in the scope of sealing.

Whoever has the lock of the open log's row seals. Only `sightline_sealing` can lock it, and a
transaction's end gives it back, so that it holds behind a pooler too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Delete,
    LargeBinary,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    cast,
    column,
    delete,
    func,
    literal,
    select,
    table,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from webapp.audit.models import AuditEventRow, Timestamp
from webapp.ledger.sealing.merkle import EMPTY_ROOT, HashAt
from webapp.ledger.sealing.models import (
    LogCopyRow,
    LogEntryRow,
    LogKeyRow,
    LogQueueRow,
    LogRow,
    LogSeriesRow,
    LogTileRow,
)
from webapp.ledger.sealing.numbering import Numbering
from webapp.ledger.sealing.tiles import Tile, TileReader

PROBLEM_LENGTH = 500


@dataclass(frozen=True)
class Log:
    """The open log, as its row has it."""

    number: int
    origin: str
    size: int
    root: bytes
    checkpoint: str | None
    signed_at: datetime | None
    resumed_by: UUID | None


@dataclass(frozen=True)
class LockedLog(Log):
    """The open log, while nobody else can seal."""

    now: datetime
    """By the database's clock."""
    series_secret: bytes = field(repr=False)


@dataclass(frozen=True)
class Queued:
    """An event that was taken from the queue."""

    position: int
    event_id: UUID
    occurred_at: datetime
    event: str | None
    """Its canonical bytes as text; `None` where the ledger has no such event."""


@dataclass(frozen=True)
class Entry:
    """An entry of the log, and the event that it is of."""

    index: int
    event_id: UUID | None
    occurred_at: datetime | None
    leaf: bytes = field(repr=False)


@dataclass(frozen=True)
class HostProblem:
    """Why a host does not sign, and what it has of the log."""

    host: str
    log: int
    size: int
    problem: str


_OF_LOG = (
    LogRow.number,
    LogRow.origin,
    LogRow.size,
    LogRow.root,
    LogRow.checkpoint,
    LogRow.signed_at,
    LogRow.resumed_by,
)


def lock_open(session: Session, *, wait: bool = False) -> LockedLog | None:
    """Lock the open log until the transaction ends; `None` where there is none, or it is locked."""
    now = func.clock_timestamp().label("now")
    found = select(*_OF_LOG, now, LogRow.series_secret).where(LogRow.state == "open")
    row = session.execute(found.with_for_update(skip_locked=not wait)).one_or_none()
    if row is None:
        return None
    values = {**row._mapping, "now": row.now.astimezone(UTC)}
    return LockedLog(**values)


def read_open(session: Session) -> Log | None:
    """Read the open log; it may grow meanwhile."""
    row = session.execute(select(*_OF_LOG).where(LogRow.state == "open")).one_or_none()
    return None if row is None else Log(*row)


def open_log(
    session: Session, number: int, origin: str, secret: bytes, resumed_by: UUID | None = None
) -> None:
    """Open a log, unless one is open, or another process does it at this moment."""
    values = {
        "number": number,
        "origin": origin,
        "series_secret": secret,
        "size": 0,
        "root": EMPTY_ROOT,
        "state": "open",
        "resumed_by": resumed_by,
    }
    session.execute(insert(LogRow).values(values).on_conflict_do_nothing())


def close_log(session: Session, number: int) -> None:
    session.execute(update(LogRow).where(LogRow.number == number).values(state="closed"))


def has_logs(session: Session) -> bool:
    return session.scalars(select(func.count(LogRow.number))).one() > 0


def read_keys(session: Session, log: int) -> set[str]:
    """Read the public keys that have signed a log."""
    return set(session.scalars(select(LogKeyRow.verifier).where(LogKeyRow.log == log)))


def write_keys(session: Session, log: int, verifiers: Iterable[str]) -> None:
    """Keep public keys that sign a log, for everybody to read."""
    session.add_all(LogKeyRow(log=log, verifier=verifier) for verifier in verifiers)
    session.flush()


def take_first(session: Session, limit: int) -> list[Queued]:
    """Take the events from the queue that wait longest, in order."""
    waiting = select(LogQueueRow.position).where(LogQueueRow.problem.is_(None))
    first = waiting.order_by(LogQueueRow.position).limit(limit)
    return _take(session, delete(LogQueueRow).where(LogQueueRow.position.in_(first)))


def count_queued(session: Session, event_ids: Sequence[UUID]) -> int:
    """Count those of some events that are in the queue."""
    return session.scalars(
        select(func.count(LogQueueRow.position)).where(LogQueueRow.event_id == _any_of(event_ids))
    ).one()


def take_events(session: Session, event_ids: Sequence[UUID]) -> list[Queued]:
    """Take these events from the queue, in no order; those that are not there are left out."""
    taking = delete(LogQueueRow).where(LogQueueRow.event_id == _any_of(event_ids))
    return _take(session, taking)


def _any_of(event_ids: Sequence[UUID]) -> ColumnElement[UUID]:
    ids = bindparam("ids", list(map(str, event_ids)), ARRAY(Text))
    return func.any(cast(ids, ARRAY(Uuid)))


def _take(session: Session, taking: Delete) -> list[Queued]:
    # One statement: what another transaction commits meanwhile is neither taken nor deleted.
    taken = taking.returning(
        LogQueueRow.position, LogQueueRow.event_id, LogQueueRow.occurred_at
    ).cte("taken")
    event = (AuditEventRow.id == taken.c.event_id) & (
        AuditEventRow.occurred_at == taken.c.occurred_at
    )
    found = select(taken, cast(AuditEventRow.event, Text)).join_from(
        taken, AuditEventRow, event, isouter=True
    )
    rows = [Queued(*row) for row in session.execute(found)]
    return sorted(rows, key=lambda queued: queued.position)


def refuse(session: Session, problems: Mapping[int, str]) -> None:
    """Leave events in the queue that cannot be sealed, so that they hold up no other."""
    for position, problem in sorted(problems.items()):
        refused = update(LogQueueRow).where(LogQueueRow.position == position)
        session.execute(refused.values(problem=problem[:PROBLEM_LENGTH]))


def read_numbering(session: Session, log: int, labels: Iterable[str]) -> Numbering:
    """Read the last numbers of some series."""
    named = func.any(bindparam("labels", sorted(set(labels)), ARRAY(Text)))
    found = select(LogSeriesRow.label, LogSeriesRow.last).where(
        LogSeriesRow.log == log, LogSeriesRow.label == named
    )
    return Numbering(dict(session.execute(found).all()))


def write_numbering(session: Session, log: int, numbering: Numbering) -> None:
    rows = [
        {"log": log, "label": label, "tenant_id": numbering.tenants.get(label), "last": last}
        for label, last in numbering.changed.items()
    ]
    written = insert(LogSeriesRow)
    raised = written.on_conflict_do_update(
        index_elements=[LogSeriesRow.log, LogSeriesRow.label],
        set_={"last": written.excluded.last},
    )
    session.execute(raised, rows)


_NEW = (
    func.unnest(
        bindparam("indexes", type_=ARRAY(BigInteger)),
        cast(bindparam("ids", type_=ARRAY(Text)), ARRAY(Uuid)),
        bindparam("moments", type_=ARRAY(Timestamp)),
        bindparam("leaves", type_=ARRAY(Text)),
    )
    .table_valued("index", "event_id", "occurred_at", "leaf")
    .render_derived()
)
# A leaf is one byte and ASCII, which a parameter carries as it is: hex would be twice as long.
_ENTRY = ("log", "index", "event_id", "occurred_at", "leaf")
_WRITE_ENTRIES = insert(table("log_entries", *map(column, _ENTRY))).from_select(
    _ENTRY,
    select(
        cast(bindparam("log"), SmallInteger),
        _NEW.c.index,
        _NEW.c.event_id,
        _NEW.c.occurred_at,
        literal(b"\x01", LargeBinary).op("||")(func.convert_to(_NEW.c.leaf, "UTF8")),
    ),
)


def write_entries(session: Session, log: int, entries: Sequence[Entry]) -> None:
    session.execute(
        _WRITE_ENTRIES,
        {
            "log": log,
            "indexes": [entry.index for entry in entries],
            "ids": [str(entry.event_id) if entry.event_id else None for entry in entries],
            "moments": [entry.occurred_at for entry in entries],
            "leaves": [entry.leaf[1:].decode("ascii") for entry in entries],
        },
    )


def read_entries(session: Session, log: int, first: int, end: int) -> list[Entry]:
    found = select(
        LogEntryRow.index, LogEntryRow.event_id, LogEntryRow.occurred_at, LogEntryRow.leaf
    ).where(LogEntryRow.log == log, LogEntryRow.index >= first, LogEntryRow.index < end)
    rows = session.execute(found.order_by(LogEntryRow.index))
    return [Entry(index, event_id, at, bytes(leaf)) for index, event_id, at, leaf in rows]


def read_tile(session: Session, log: int, level: int, n: int) -> bytes:
    """Read the hashes of a tile; none where there is no such tile."""
    key = {"log": log, "level": level, "n": n}
    return bytes(session.scalar(select(LogTileRow.hashes).filter_by(**key)) or b"")


class Tiles:
    """The tiles of a log: those in the database, and those that are to be written."""

    def __init__(self, session: Session, log: int) -> None:
        self._session = session
        self._log = log
        self._known: dict[tuple[int, int], bytes] = {}

    def read(self, level: int, n: int) -> bytes:
        """Return the hashes of a tile; none where there is no such tile."""
        if (level, n) not in self._known:
            self._known[level, n] = read_tile(self._session, self._log, level, n)
        return self._known[level, n]

    def hash_at(self, size: int) -> HashAt:
        return TileReader(self.read, size)

    def write(self, tiles: Sequence[Tile]) -> None:
        self._known |= {(tile.level, tile.n): tile.hashes for tile in tiles}
        written = insert(LogTileRow)
        grown = written.on_conflict_do_update(
            index_elements=[LogTileRow.log, LogTileRow.level, LogTileRow.n],
            set_={"hashes": written.excluded.hashes},
        )
        rows = [
            {"log": self._log, "level": tile.level, "n": tile.n, "hashes": tile.hashes}
            for tile in tiles
        ]
        self._session.execute(grown, rows)


def write_tree(session: Session, log: int, size: int, root: bytes) -> None:
    grown = update(LogRow).where(LogRow.number == log)
    session.execute(grown.values(size=size, root=root))


def write_checkpoint(session: Session, log: int, note: str, at: datetime) -> None:
    signed = update(LogRow).where(LogRow.number == log)
    session.execute(signed.values(checkpoint=note, signed_at=at))


def write_copy(
    session: Session, host: str, log: int, size: int, root: bytes, problem: str | None
) -> None:
    """Note what a host has off the database, and why nothing may be signed, if so."""
    row = {
        "host": host,
        "log": log,
        "size": size,
        "root": root,
        "compared_at": func.clock_timestamp(),
        "problem": None if problem is None else problem[:PROBLEM_LENGTH],
    }
    noted = insert(LogCopyRow).values(row)
    session.execute(
        noted.on_conflict_do_update(
            index_elements=[LogCopyRow.host],
            set_={name: noted.excluded[name] for name in row if name != "host"},
        )
    )


def read_problems(session: Session, but: str = "") -> list[HostProblem]:
    """Read why hosts do not sign, but for one host's reason."""
    found = select(LogCopyRow.host, LogCopyRow.log, LogCopyRow.size, LogCopyRow.problem)
    rows = session.execute(
        found.where(LogCopyRow.problem.is_not(None), LogCopyRow.host != but).order_by(
            LogCopyRow.host
        )
    )
    return [HostProblem(host, log, size, problem or "") for host, log, size, problem in rows]


def read_comparisons(session: Session) -> dict[str, datetime]:
    """Read when each host last compared its copy, of those that did within a day."""
    recent = LogCopyRow.compared_at > func.clock_timestamp() - timedelta(days=1)
    rows = session.execute(select(LogCopyRow.host, LogCopyRow.compared_at).where(recent))
    return {host: at.astimezone(UTC) for host, at in rows}


def forget_problems(session: Session) -> None:
    """Forget what hosts have found: each finds it again unless it is no more so."""
    session.execute(update(LogCopyRow).values(problem=None))
