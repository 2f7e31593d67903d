"""The check of the log, of the ledger under it, and of what is kept off the database.

It runs beside a log that grows: what was signed when it begins is what it reads, part by part, and
no transaction of it lasts longer than one part. Nothing that the database says of itself is taken
for true: hashes are made from entries, commitments from events, and the root is compared with
checkpoints that somebody else has kept.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Text, cast, func, select
from sqlalchemy.orm import Session

from webapp.audit.event import EventError, load_event
from webapp.audit.models import AuditEventRow
from webapp.audit.signature import Keys, RegisteredKey, check_signatures, may_sign
from webapp.audit.signing_keys import read_keys
from webapp.db.deadline import long_statements
from webapp.db.row_security import OWN_JOURNAL
from webapp.ledger.sealing import store
from webapp.ledger.sealing.checkpoint import Checkpoint, describe_tree, encode_base64
from webapp.ledger.sealing.leaf import (
    EventLeaf,
    HeartbeatLeaf,
    LeafError,
    Series,
    canonical_json,
    commitment_of,
    parse_leaf,
)
from webapp.ledger.sealing.merkle import HASH_BYTES, Frontier, hash_leaf, root_at
from webapp.ledger.sealing.models import (
    LogEntryRow,
    LogQueueRow,
    LogRow,
    LogSeriesRow,
    LogTileRow,
)
from webapp.ledger.sealing.note import NoteError, Verifier, open_checkpoint, parse_verifier
from webapp.ledger.sealing.numbering import HEARTBEAT, label_of
from webapp.ledger.sealing.published import tile_reader
from webapp.ledger.sealing.tiles import TILE_HASHES, Tile, TileError, grow

FAULTS = (
    "edited",
    "deleted",
    "inserted",
    "reordered",
    "truncated",
    "forked",
    "incomplete",
    "duplicated",
    "frozen",
    "bad signature",
)
"""Words of what must not be, as the offline verifier has them."""

REMARKS = ("pending", "unanchored", "resumed")
"""Words of what an operator should know, and that is no fault."""

SHOWN = 20
"""How many findings of one word are shown. All are counted."""

PART = 20 * TILE_HASHES
"""Entries that one transaction reads."""

BY_DATABASE = ("ledger.keys.", "tenants.", "tokens.", "users.")
"""What the surfaces of changes begin with that the database itself records, by triggers."""

FROZEN_AFTER = timedelta(hours=2)
"""The age at which the newest checkpoint is too old: a heartbeat comes each hour."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Finding:
    word: str
    text: str


@dataclass
class Report:
    """What was found so far."""

    shown: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def find(self, word: str, text: str) -> None:
        self.counts[word] += 1
        if self.counts[word] <= SHOWN:
            self.shown.append(Finding(word, text))

    @property
    def is_good(self) -> bool:
        return not any(self.counts[word] for word in FAULTS)


@dataclass(frozen=True)
class Anchor:
    """A checkpoint that is kept where the database's administrator does not write."""

    place: str
    """For people: where it is."""
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Verified:
    """How far a log was verified before, as it is kept off the database."""

    origin: str
    size: int
    root: str
    series: dict[str, int]
    """The last number of each series."""


@dataclass(frozen=True)
class LogToVerify:
    """A log as its row has it, when the check begins."""

    number: int
    origin: str
    size: int
    root: bytes
    checkpoint: str | None
    state: str
    series_secret: bytes = field(repr=False)
    verifiers: tuple[Verifier, ...] = ()

    @property
    def tree(self) -> str:
        return describe_tree(self.size, self.root)


def read_logs(session: Session) -> list[LogToVerify]:
    columns = (LogRow.number, LogRow.origin, LogRow.size, LogRow.root, LogRow.checkpoint)
    more = (LogRow.state, LogRow.series_secret)
    rows = session.execute(select(*columns, *more).order_by(LogRow.number)).all()
    return [
        LogToVerify(
            number=row.number,
            origin=row.origin,
            size=row.size,
            root=bytes(row.root),
            checkpoint=row.checkpoint,
            state=row.state,
            series_secret=bytes(row.series_secret),
            verifiers=tuple(map(parse_verifier, sorted(store.read_keys(session, row.number)))),
        )
        for row in rows
    ]


def read_signers(session: Session) -> Keys:
    """Read the keys that sign events, those included that are believed no more.

    What is committed was signed by a key that was believed then.
    """
    keys = read_keys(session)
    return {name: replace(key, retired=False) for name, key in keys.items()}


class LogCheck:
    """The check of one log, from its beginning or from where it was verified before."""

    def __init__(
        self,
        session: Session,
        log: LogToVerify,
        report: Report,
        *,
        signers: Keys,
        anchors: Sequence[Anchor] = (),
        pinned: Sequence[Verifier] = (),
        before: Verified | None = None,
    ) -> None:
        """`pinned`: keys that are known from elsewhere; without any, those in the database."""
        self._session = session
        self._log = log
        self._report = report
        self._signers = signers
        self._anchors = [each for each in anchors if each.checkpoint.origin == log.origin]
        self._verifiers = tuple(pinned) or log.verifiers
        self._start = before.size if before else 0
        self._before = before
        self._series: Counter[str] = Counter(before.series if before else {})
        self._tiles: dict[tuple[int, int], bytes] = {}
        """The last tile of each level, as it has to be."""

    @property
    def entries(self) -> int:
        """How many entries are to be read."""
        return max(0, self._log.size - self._start)

    def run(self, advance: Advance) -> Verified:
        """Check all of it; returns how far the log is verified then."""
        self._check_checkpoint()
        if self._goes_on():
            self._check_entries(advance)
            self._check_series()
        self._check_anchors()
        return Verified(
            self._log.origin,
            self._log.size,
            encode_base64(self._log.root),
            dict(self._series),
        )

    def _check_checkpoint(self) -> None:
        log = self._log
        if log.checkpoint is None:
            if log.size:
                self._report.find("bad signature", f"{log.origin} has entries and no checkpoint")
            return
        try:
            checkpoint, note = open_checkpoint(log.checkpoint.encode(), self._verifiers)
        except NoteError as error:
            self._report.find("bad signature", f"the checkpoint of {log.origin}: {error}")
            return
        if not checkpoint.is_of(log.origin, log.size, log.root):
            self._report.find("edited", f"the checkpoint of {log.origin} is of another tree")
        signed = max((each.time for each in note.verified if each.time), default=None)
        if log.state == "open" and signed is not None:
            age = datetime.now(UTC).timestamp() - signed
            if age > FROZEN_AFTER.total_seconds():
                at = datetime.fromtimestamp(signed, UTC).isoformat()
                self._report.find("frozen", f"the newest checkpoint of {log.origin} is of {at}")

    def _goes_on(self) -> bool:
        """Whether the tree goes on from what was verified before, and from each anchor.

        The last tiles of that tree are taken from the database: its root holds all of them.
        """
        if self._before is None:
            return True
        if self._before.size > self._log.size:
            self._report.find(
                "truncated",
                f"{self._log.origin} had {self._before.size} entries when it was verified, and has"
                f" {self._log.size}",
            )
            return False
        root = self._root_at(self._before.size)
        if root is None or encode_base64(root) != self._before.root:
            self._report.find(
                "forked",
                f"{self._log.origin} was verified with {self._before.size} entries, root"
                f" {self._before.root}, and has {describe_tree(self._before.size, root)}",
            )
            # From its first entry on, it says what it is.
            self._start = 0
            self._series.clear()
            return True
        self._take_last_tiles(self._before.size)
        return True

    def _take_last_tiles(self, size: int) -> None:
        for level in range(8):
            hashes = size >> 8 * level
            if width := hashes % TILE_HASHES:
                n = hashes // TILE_HASHES
                self._tiles[level, n] = self._read_tiles(level, n, n)[n][: width * HASH_BYTES]

    def _root_at(self, size: int) -> bytes | None:
        try:
            return root_at(size, tile_reader(self._session, self._log.number, size))
        except TileError:
            return None

    def _check_anchors(self) -> None:
        log = self._log
        if not self._anchors and self._before is None:
            self._report.find("unanchored", f"nothing off the database has a tree of {log.origin}")
        for anchor in self._anchors:
            kept = anchor.checkpoint
            if kept.size > log.size:
                word = "truncated" if log.state == "open" else "resumed"
                self._report.find(
                    word,
                    f"{log.origin} has {log.size} entries, and {anchor.place} a checkpoint of"
                    f" {describe_tree(kept.size, kept.root)}",
                )
            elif (root := self._root_at(kept.size)) != kept.root:
                self._report.find(
                    "forked",
                    f"{log.origin} has {describe_tree(kept.size, root)}, and {anchor.place} a"
                    f" checkpoint of {describe_tree(kept.size, kept.root)}",
                )

    def _check_entries(self, advance: Advance) -> None:
        frontier = self._frontier()
        for start in range(self._start, self._log.size, PART):
            end = min(start + PART, self._log.size)
            rows = list(self._read_part(start, end))
            self._check_indexes([row.place for row in rows], start, end)
            for row in rows:
                self._check_entry(row)
            self._check_origins([row for row in rows if row.text is not None])
            hashes = [hash_leaf(bytes(row.leaf)) for row in rows]
            if frontier is not None and len(rows) == end - start:
                self._check_tiles(start, hashes)
                for each in hashes:
                    frontier.append(each)
            else:
                frontier = None  # what follows a hole can be compared with nothing
            self._session.rollback()
            advance(end - start)
        if frontier is not None and frontier.root() != self._log.root:
            made = describe_tree(frontier.size, frontier.root())
            self._report.find(
                "edited", f"the entries make {made}, and the log has {self._log.tree}"
            )

    def _frontier(self) -> Frontier | None:
        reader = tile_reader(self._session, self._log.number, self._start)
        return Frontier.at(self._start, reader)

    def _read_part(self, start: int, end: int) -> Iterator[Any]:
        event = (AuditEventRow.id == LogEntryRow.event_id) & (
            AuditEventRow.occurred_at == LogEntryRow.occurred_at
        )
        entry = (LogEntryRow.index.label("place"), LogEntryRow.event_id, LogEntryRow.leaf)
        record = (cast(AuditEventRow.event, Text).label("text"), AuditEventRow.origin_signature)
        found = (
            select(*entry, *record, *_COPIED)
            .join_from(LogEntryRow, AuditEventRow, event, isouter=True)
            .where(LogEntryRow.log == self._log.number)
            .where(LogEntryRow.index >= start, LogEntryRow.index < end)
            .order_by(LogEntryRow.index)
        )
        with long_statements(self._session):
            yield from self._session.execute(found)

    def _check_indexes(self, found: Sequence[int], start: int, end: int) -> None:
        expected = start
        for index in [*found, end]:
            if index > expected:
                lost = f"entries {expected} to {index - 1} of {self._log.origin}"
                self._report.find("deleted", lost)
            elif index < expected:
                self._report.find("duplicated", f"entry {index} of {self._log.origin}")
            expected = index + 1

    def _check_entry(self, row: Any) -> None:
        try:
            leaf = parse_leaf(bytes(row.leaf))
        except LeafError as error:
            self._report.find("edited", f"entry {row.place}: {error}")
            return
        match leaf:
            case HeartbeatLeaf(number=number):
                self._number(row.place, (HEARTBEAT, number))
                if row.event_id is not None:
                    self._report.find("edited", f"entry {row.place}: a heartbeat of an event")
            case EventLeaf():
                for series in leaf.series:
                    self._number(row.place, series)
                self._check_event(row, leaf)

    def _number(self, index: int, series: Series) -> None:
        """Check that a number is the next one of its series."""
        label, number = series
        last = self._series[label]
        if number == last + 1:
            self._series[label] = number
        elif number > last:
            missing = f"{last + 1}" if number == last + 2 else f"{last + 1} to {number - 1}"
            self._report.find("incomplete", f"missing before entry {index}: {missing} of {label}")
            self._series[label] = number
        elif number == last:
            self._report.find("duplicated", f"entry {index}: number {number} of series {label}")
        else:
            self._report.find(
                "reordered", f"entry {index}: number {number} of series {label} after {last}"
            )

    def _check_event(self, row: Any, leaf: EventLeaf) -> None:
        if row.text is None:
            what = f"the event {row.event_id} of entry {row.place} is not in the ledger"
            self._report.find("deleted", what)
            return
        try:
            event = _load(row.text)
            right = commitment_of(event) == leaf.commitment
            labels = [label for label, _ in leaf.series]
            numbered = labels == [label_of(event, self._log.series_secret)]
        except (LeafError, ValueError, KeyError, TypeError) as error:
            self._report.find("edited", f"event {row.event_id}: {error}")
            return
        if not right:
            what = f"event {row.event_id} is not what entry {row.place} commits to"
            self._report.find("edited", what)
        elif not numbered:
            self._report.find("edited", f"event {row.event_id} is numbered in another's series")
        elif wrong := _differing(row, event):
            what = f"event {row.event_id}: the columns {', '.join(wrong)} say something else"
            self._report.find("edited", what)

    def _check_origins(self, rows: Sequence[Any]) -> None:
        """Check who has signed events when they were first written."""
        signed = [row for row in rows if row.origin_signature is not None]
        pairs = [(row.text.encode(), row.origin_signature) for row in signed]
        checked = check_signatures(pairs, self._signers)
        by = {row.event_id: found for row, found in zip(signed, checked, strict=True)}
        for row in rows:
            match by.get(row.event_id):
                case EventError() as error:
                    self._report.find("bad signature", f"event {row.event_id}: {error}")
                case key if not _may_sign(key, row.text):
                    who = f"key {key.fingerprint} of {key.process} alone" if key else "nobody"
                    self._report.find("bad signature", f"event {row.event_id}: signed by {who}")

    def _check_tiles(self, start: int, hashes: Sequence[bytes]) -> None:
        """Compare the tiles over some entries with what they have to be."""
        tiles = grow(start, hashes, lambda level, n: self._tiles[level, n])
        for level in sorted({tile.level for tile in tiles}):
            of_level = [tile for tile in tiles if tile.level == level]
            kept = self._read_tiles(level, of_level[0].n, of_level[-1].n)
            for tile in of_level:
                self._compare(tile, kept.get(tile.n, b""))
            self._tiles[level, of_level[-1].n] = of_level[-1].hashes
        self._forget_full_tiles(start + len(hashes))

    def _forget_full_tiles(self, size: int) -> None:
        last = {(level, size >> 8 * (level + 1)) for level in range(8)}
        self._tiles = {key: hashes for key, hashes in self._tiles.items() if key in last}

    def _compare(self, tile: Tile, kept: bytes) -> None:
        if kept[: len(tile.hashes)] == tile.hashes:
            return
        if tile.level:
            self._report.find("edited", f"tile {tile.n} of level {tile.level}")
            return
        for place in range(tile.width):
            at = slice(place * HASH_BYTES, (place + 1) * HASH_BYTES)
            if kept[at] != tile.hashes[at]:
                index = tile.n * TILE_HASHES + place
                self._report.find("edited", f"entry {index} is not what its tile has")

    def _read_tiles(self, level: int, first: int, last: int) -> Mapping[int, bytes]:
        found = select(LogTileRow.n, LogTileRow.hashes).where(
            LogTileRow.log == self._log.number,
            LogTileRow.level == level,
            LogTileRow.n.between(first, last),
        )
        return {n: bytes(hashes) for n, hashes in self._session.execute(found)}

    def _check_series(self) -> None:
        """Compare the last numbers with those from which the next ones would be given."""
        found = select(LogSeriesRow.label, LogSeriesRow.last).where(
            LogSeriesRow.log == self._log.number
        )
        size = select(LogRow.size).where(LogRow.number == self._log.number)
        last: dict[str, int] = dict(self._session.execute(found).all())
        grown = self._session.scalars(size).one() != self._log.size
        for label in sorted(last.keys() | self._series.keys()):
            counted, kept = self._series[label], last.get(label, 0)
            if kept < counted or (kept > counted and not grown):
                self._report.find(
                    "edited", f"series {label} has {counted} numbers, and {kept} are noted"
                )
        self._session.rollback()


def check_whole_ledger(session: Session, report: Report) -> tuple[int, int]:
    """Find events that the log never got, and entries of one event; returns what waits.

    That is how many events are committed and not sealed yet, and how many of them cannot be.
    """
    with long_statements(session):
        for event_id in session.scalars(_never_logged().limit(SHOWN + 1)):
            report.find("inserted", f"event {event_id} is in the ledger, and was never in the log")
        for event_id, count in session.execute(_sealed_twice()):
            report.find("duplicated", f"event {event_id} has {count} entries")
        unfit = func.count().filter(LogQueueRow.problem.is_not(None))
        waiting = select(func.count(), unfit).select_from(LogQueueRow)
        total, refused = session.execute(waiting).one()
    session.rollback()
    if total:
        report.find("pending", f"{total} events are committed and not sealed, {refused} cannot be")
    return total, refused


def _never_logged() -> Any:
    sealed = select(LogEntryRow.index).where(LogEntryRow.event_id == AuditEventRow.id)
    queued = select(LogQueueRow.position).where(LogQueueRow.event_id == AuditEventRow.id)
    missing = ~sealed.exists() & ~queued.exists()
    return select(AuditEventRow.id).where(missing).order_by(AuditEventRow.id)


def _sealed_twice() -> Any:
    count = func.count()
    several = select(LogEntryRow.event_id, count).where(LogEntryRow.event_id.is_not(None))
    return several.group_by(LogEntryRow.event_id).having(count > 1).limit(SHOWN)


_COPIED = (
    AuditEventRow.tenant_id,
    AuditEventRow.tenant,
    AuditEventRow.occurred_at,
    AuditEventRow.kind,
    AuditEventRow.actor_id,
    AuditEventRow.actor_email,
    AuditEventRow.surface,
    AuditEventRow.reason_code,
    AuditEventRow.ticket,
    AuditEventRow.scope_kind,
    AuditEventRow.effect,
    AuditEventRow.outcome,
    AuditEventRow.request_id,
    AuditEventRow.origin_journal,
    AuditEventRow.origin_seq,
    AuditEventRow.excluded_digest,
)
"""The columns by which lists find an event: where one says something else, who should see the event
does not."""


def _may_sign(key: RegisteredKey | None, text: str) -> bool:
    """Whether a key may have signed an event, or nobody, of what the database itself records."""
    try:
        event = load_event(text.encode())
    except EventError:
        return True  # it is not what its entry commits to, which is said already
    if key is not None:
        return may_sign(key.process, event)
    own = event.origin is not None and event.origin.journal == OWN_JOURNAL
    return own and event.kind == "change" and event.surface.startswith(BY_DATABASE)


def _differing(row: Any, event: Mapping[str, Any]) -> list[str]:
    """The columns of an event's row that are not what the event says."""
    reason, excluded = event["reason"] or {}, event["decision"]["excluded"] or {}
    said = {
        "tenant_id": _uuid(event["scope"]["tenant_id"]),
        "tenant": event["scope"]["tenant"],
        "occurred_at": datetime.fromisoformat(event["occurred_at"]),
        "kind": event["kind"],
        "actor_id": _uuid(event["actor"]["id"]),
        "actor_email": event["actor"]["email"],
        "surface": event["surface"],
        "reason_code": reason.get("code"),
        "ticket": reason.get("ticket"),
        "scope_kind": event["scope"]["kind"],
        "effect": event["decision"]["effect"],
        "outcome": event["outcome"],
        "request_id": event["request"]["id"],
        "origin_journal": _uuid(event["origin"]["journal"]),
        "origin_seq": event["origin"]["seq"],
        "excluded_digest": excluded.get("digest"),
    }
    return [name for name, value in said.items() if getattr(row, name) != value]


def _uuid(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)


def _load(text: str) -> Mapping[str, Any]:
    event: Mapping[str, Any] = orjson.loads(text)
    if canonical_json(event) != text.encode():
        raise LeafError("not the canonical bytes of an event")
    return event
