"""The sealer: committed events become entries of the log, and a signed checkpoint covers them.

All of it is one transaction. Two sealers, a crash at any point, and events that are committed late
neither fork the log nor leave a gap in it.
"""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from socket import gethostname
from typing import Any
from uuid import UUID

import orjson
from prometheus_client import Counter
from sqlalchemy.orm import Session

from webapp.audit.append import append_own
from webapp.audit.rotations import use_of_key
from webapp.db.session import ScopedSession
from webapp.ledger.sealing import store
from webapp.ledger.sealing.checkpoint import Checkpoint
from webapp.ledger.sealing.copies import CopiedEntry, Copies, Copy, UnreadableCopy
from webapp.ledger.sealing.guard import Behind, RefusesToSign, compare
from webapp.ledger.sealing.keys import LogKeys, base_of, origin_of
from webapp.ledger.sealing.leaf import LeafError, commitment_of, event_leaf, heartbeat_leaf
from webapp.ledger.sealing.merkle import hash_leaf, root_at
from webapp.ledger.sealing.note import Verifier, sign_note
from webapp.ledger.sealing.numbering import HEARTBEAT, Numbering, label_of, tenant_of
from webapp.ledger.sealing.store import Entry, LockedLog, Queued, Tiles
from webapp.ledger.sealing.tiles import grow
from webapp.signing_key import fingerprint_of

SEAL_TASK = "ledger.seal"
"""Beat sends it every few seconds, and commits of events do. One at a time does anything."""

BATCH = 2_000
"""Events that one transaction seals at most."""

HEARTBEAT_EVERY = timedelta(hours=1)
"""The longest that a log is silent: what is longer silent is frozen."""

SEALED = Counter("sightline_log_sealed_total", "Entries that were sealed, heartbeats included.")
REFUSED = Counter("sightline_log_refused_total", "Attempts to seal that ended in a refusal.")


class UnfitEvents(Exception):
    """Events that no entry can be made of, by their positions in the queue."""

    def __init__(self, problems: Mapping[int, str]) -> None:
        super().__init__(f"{len(problems)} events cannot be sealed")
        self.problems = problems


@dataclass(frozen=True)
class Sealed:
    """What a transaction has sealed, once it is committed."""

    entries: int
    size: int
    is_all: bool
    """Whether nothing waits, as far as this transaction has seen."""


@dataclass(frozen=True)
class _Parsed:
    """An event from the queue, and what its entry says but for its number."""

    queued: Queued
    label: str
    tenant_id: UUID | None
    commitment: str


def series_secret(keys: LogKeys, number: int) -> bytes:
    """Return the key of a log's labels, which a database that was lost would get again."""
    named = f"sightline series v1\n{origin_of(keys.origin, number)}"
    return hmac.digest(keys.seed, named.encode(), "sha256")


def seal(
    session: ScopedSession, keys: LogKeys, copies: Copies, host: str, limit: int = BATCH
) -> Sealed | None:
    """Seal what waits longest; `None` where another process does, or nothing has to be done.

    Raises `RefusesToSign` where the tree does not continue what was signed, and `UnfitEvents`. The
    caller commits, or rolls back.
    """
    log = _lock(session, keys)
    if log is None:
        return None
    tiles = Tiles(session, log.number)
    try:
        copy = copies.read()
        _heed_others(session, log, copy, host)
        behind = compare(log, tiles.hash_at(log.size), copy)
        if behind:
            _await_others(session, log, copies, behind)
            return _seal_again(session, log, tiles, copies, behind)
    except UnreadableCopy as error:
        raise RefusesToSign(str(error)) from error
    return _seal_next(session, log, tiles, keys, limit)


def _lock(session: Session, keys: LogKeys) -> LockedLog | None:
    log = store.lock_open(session)
    if log is None and not store.has_logs(session):
        store.open_log(session, 1, keys.origin, series_secret(keys, 1))
        log = store.lock_open(session)
    if log is not None and base_of(log.origin) != keys.origin:
        raise RefusesToSign(f"LOG_ORIGIN is {keys.origin}, and the log is {log.origin}")
    return log


def _heed_others(session: Session, log: LockedLog, copy: Copy | None, host: str) -> None:
    """Raise `RefusesToSign` where another host has found that the tree is not the signed one.

    Of hosts that are ahead of a restored database the one that has most seals again.
    """
    ours = copy.size if copy is not None and copy.log == log.number else 0
    for other in store.read_problems(session, host):
        if other.log != log.number or not log.size < other.size <= ours:
            raise RefusesToSign(f"{other.host} has found: {other.problem}")


def _await_others(session: Session, log: LockedLog, copies: Copies, behind: Behind) -> None:
    """Raise `RefusesToSign` until each host has compared its copy since the restore was noticed.

    Another host may have more than this one has, and only it could seal that again.
    """
    since = copies.behind_since(log.now)
    compared = store.read_comparisons(session)
    waiting = [h for h in copies.known_hosts() if h not in compared or compared[h] <= since]
    if waiting:
        raise RefusesToSign(f"{behind.problem}, and {', '.join(waiting)} have not compared yet")


def _seal_next(
    session: ScopedSession, log: LockedLog, tiles: Tiles, keys: LogKeys, limit: int
) -> Sealed | None:
    queued = _take(session, log, limit)
    if queued:
        entries = _number(session, log, log.size, _parse(queued, log.series_secret))
    elif log.signed_at is not None and log.now - log.signed_at >= HEARTBEAT_EVERY:
        entries = [_beat(session, log, log.size, log.now)]
    else:
        return None
    size, root = _grow(session, log, tiles, log.size, entries)
    checkpoint = Checkpoint(log.origin, size, root)
    signers = keys.signers(log.origin, int(log.now.timestamp()))
    _note_keys(session, log, [signer.verifier for signer in signers])
    note = sign_note(checkpoint.text, signers).decode()
    store.write_checkpoint(session, log.number, note, log.now)
    return Sealed(len(entries), size, is_all=len(queued) < limit)


def _note_keys(session: ScopedSession, log: LockedLog, verifiers: Sequence[Verifier]) -> None:
    """Keep the public keys of the log, and record each key that comes after another one."""
    known = store.read_keys(session, log.number)
    new = [verifier for verifier in verifiers if str(verifier) not in known]
    if not new:
        return
    store.write_keys(session, log.number, map(str, new))
    if known:
        keys = sorted({verifier.public_key for verifier in new})
        names = [fingerprint_of(key) for key in keys]
        append_own(session, [use_of_key("LOG_SIGNING_KEY", name, gethostname()) for name in names])


def _take(session: Session, log: LockedLog, limit: int) -> list[Queued]:
    """Take the next events. A log in the place of another begins with the event that says so."""
    if log.size == 0 and log.resumed_by is not None:
        return store.take_events(session, [log.resumed_by])
    return store.take_first(session, limit)


def _parse(queued: Sequence[Queued], secret: bytes) -> list[_Parsed]:
    parsed, problems = [], {}
    for each in queued:
        try:
            parsed.append(_parse_one(each, secret))
        except (LeafError, KeyError, TypeError, ValueError) as error:
            problems[each.position] = str(error) or type(error).__name__
    if problems:
        raise UnfitEvents(problems)
    return parsed


def _parse_one(queued: Queued, secret: bytes) -> _Parsed:
    if queued.event is None:
        raise LeafError("the ledger has no such event")
    event: Mapping[str, Any] = orjson.loads(queued.event)
    return _Parsed(queued, label_of(event, secret), tenant_of(event), commitment_of(event))


def _number(session: Session, log: LockedLog, first: int, parsed: Sequence[_Parsed]) -> list[Entry]:
    """Make the entries of events: each gets the next index, and the next number of its series."""
    numbering = store.read_numbering(session, log.number, [each.label for each in parsed])
    entries = [
        _entry(index, each, numbering) for index, each in zip(count(first), parsed, strict=False)
    ]
    store.write_numbering(session, log.number, numbering)
    return entries


def _entry(index: int, parsed: _Parsed, numbering: Numbering) -> Entry:
    series = [numbering.number(parsed.label, parsed.tenant_id)]
    leaf = event_leaf(parsed.commitment, series)
    return Entry(index, parsed.queued.event_id, parsed.queued.occurred_at, leaf)


def _beat(session: Session, log: LockedLog, index: int, at: datetime) -> Entry:
    numbering = store.read_numbering(session, log.number, [HEARTBEAT])
    _, number = numbering.number(HEARTBEAT)
    store.write_numbering(session, log.number, numbering)
    return Entry(index, None, None, heartbeat_leaf(at, number))


def _grow(
    session: Session, log: LockedLog, tiles: Tiles, size: int, entries: Sequence[Entry]
) -> tuple[int, bytes]:
    """Write entries and the tiles over them; returns the tree's size and root then."""
    store.write_entries(session, log.number, entries)
    tiles.write(grow(size, [hash_leaf(entry.leaf) for entry in entries], tiles.read))
    size += len(entries)
    root = root_at(size, tiles.hash_at(size))
    store.write_tree(session, log.number, size, root)
    return size, root


def _seal_again(
    session: Session, log: LockedLog, tiles: Tiles, copies: Copies, behind: Behind
) -> Sealed:
    """Seal what a restored database has lost as it was sealed before, once its events are back.

    The entries of this host's copy say which, and in which order. What comes of it has to be the
    tree that was signed.
    """
    copy = behind.copy
    entries = copies.entries(log.number, log.size, copy.size)
    missing = _count_missing(session, entries)
    if missing:
        raise RefusesToSign(
            f"{behind.problem}: {missing} of the {len(entries)} events between are not back yet"
        )
    size, root = log.size, log.root
    for part in _parts(entries):
        again = _repeat(session, log, part)
        if [entry.leaf for entry in again] != [entry.leaf for entry in part]:
            raise RefusesToSign(f"{behind.problem}, and the events between are others now")
        size, root = _grow(session, log, tiles, size, again)
    if root != copy.root:
        raise RefusesToSign(f"{behind.problem}, and the entries of that copy make another root")
    store.write_checkpoint(session, log.number, copy.note, log.now)
    return Sealed(len(entries), size, is_all=False)


def _count_missing(session: Session, entries: Sequence[CopiedEntry]) -> int:
    missing = 0
    for part in _parts(entries):
        ids = [entry.event_id for entry in part if entry.event_id is not None]
        missing += len(ids) - store.count_queued(session, ids)
    return missing


def _parts(entries: Sequence[CopiedEntry]) -> Iterator[Sequence[CopiedEntry]]:
    for first in range(0, len(entries), BATCH):
        yield entries[first : first + BATCH]


def _repeat(session: Session, log: LockedLog, copied: Sequence[CopiedEntry]) -> list[Entry]:
    """Make the entries of events in the order in which a copy has them.

    A heartbeat is of no event: it is taken as the copy has it.
    """
    ids = [entry.event_id for entry in copied if entry.event_id is not None]
    parsed = _parse(store.take_events(session, ids), log.series_secret)
    by_id = {each.queued.event_id: each for each in parsed}
    labels = [HEARTBEAT, *(each.label for each in parsed)]
    numbering = store.read_numbering(session, log.number, labels)
    entries = []
    for entry in copied:
        if entry.event_id is None:
            numbering.number(HEARTBEAT)
            entries.append(Entry(entry.index, None, None, entry.leaf))
        else:
            entries.append(_entry(entry.index, by_id[entry.event_id], numbering))
    store.write_numbering(session, log.number, numbering)
    return entries
