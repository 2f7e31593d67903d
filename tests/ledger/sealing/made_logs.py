"""A log over the events of a test: sealed as the sealer seals, with keys of the test's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
from flask import Flask
from sqlalchemy import NullPool, Text, cast, create_engine, delete, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from webapp.audit.models import AuditEventRow
from webapp.db.limits import limits_of_statements
from webapp.db.scopes import SealingScope
from webapp.db.session import ScopedSession
from webapp.ledger.sealing import published, store
from webapp.ledger.sealing.checkpoint import Checkpoint
from webapp.ledger.sealing.leaf import commitment_of, event_leaf, heartbeat_leaf
from webapp.ledger.sealing.merkle import EMPTY_ROOT, hash_leaf, root_at
from webapp.ledger.sealing.models import (
    LogCosignatureRow,
    LogEntryRow,
    LogQueueRow,
    LogRow,
    LogTileRow,
)
from webapp.ledger.sealing.note import Signer, cosigner, ed25519_signer, sign_note
from webapp.ledger.sealing.tiles import grow

ORIGIN = "log.example/ours"
LOG = ed25519_signer(ORIGIN, bytes(range(32)))
WITNESS = cosigner("witness.example/w", bytes([7] * 32), 1_700_000_000)
AT = 1_700_000_000


@contextmanager
def sealing(app: Flask) -> Iterator[ScopedSession]:
    """A session of the sealing role, committed at the end."""
    engine = create_engine(app.extensions["settings"].database_url, poolclass=NullPool)
    with ScopedSession(engine, limits=limits_of_statements(60)) as session:
        session.enter(SealingScope())
        yield session
        session.commit()


def open_log(app: Flask, number: int = 1, origin: str = ORIGIN) -> None:
    with sealing(app) as session:
        session.execute(update(LogRow).where(LogRow.state == "open").values(state="closed"))
        session.execute(
            insert(LogRow).values(
                number=number,
                origin=origin,
                series_secret=bytes(32),
                size=0,
                root=EMPTY_ROOT,
                state="open",
            )
        )


def seal(app: Flask, heartbeats: int = 0, number: int = 1, signer: Signer = LOG) -> int:
    """Seal all events that wait, and some heartbeats behind them; return the log's size."""
    with sealing(app) as session:
        size, origin = session.execute(
            select(LogRow.size, LogRow.origin).where(LogRow.number == number)
        ).one()
        entries = [*_waiting(session, size)]
        entries += [
            {"event_id": None, "occurred_at": None, "leaf": heartbeat_leaf(_moment(), beat)}
            for beat in range(size + 1, size + 1 + heartbeats)
        ]
        session.execute(delete(LogQueueRow))
        if entries:
            rows = [{"log": number, "index": n, **entry} for n, entry in enumerate(entries, size)]
            session.execute(insert(LogEntryRow), rows)
            _write_tiles(session, number, size, [hash_leaf(entry["leaf"]) for entry in entries])
            size += len(entries)
        root = root_at(size, published.tile_reader(session, number, size))
        note = sign_note(Checkpoint(origin, size, root).text, [signer])
        values = {"size": size, "root": root, "checkpoint": note.decode(), "signed_at": _moment()}
        session.execute(update(LogRow).where(LogRow.number == number).values(values))
        if str(signer.verifier) not in store.read_keys(session, number):
            store.write_keys(session, number, [str(signer.verifier)])
    return size


def cosign(app: Flask, number: int = 1) -> None:
    """Have the witness cosign the newest checkpoint."""
    with sealing(app) as session:
        row = session.execute(
            select(LogRow.size, LogRow.origin, LogRow.root).where(LogRow.number == number)
        ).one()
        line = WITNESS.sign(Checkpoint(row.origin, row.size, bytes(row.root)).text).line
        session.execute(
            insert(LogCosignatureRow).values(
                log=number, size=row.size, name=WITNESS.verifier.name, line=line
            )
        )


def _waiting(session: ScopedSession, size: int) -> Iterator[dict[str, Any]]:
    columns = (AuditEventRow.id, AuditEventRow.occurred_at, cast(AuditEventRow.event, Text))
    found = select(*columns).join(LogQueueRow, LogQueueRow.event_id == AuditEventRow.id)
    rows = session.execute(found.order_by(LogQueueRow.position))
    for number, (event_id, occurred_at, text) in enumerate(rows, size + 1):
        leaf = event_leaf(commitment_of(orjson.loads(text)), [("all", number)])
        yield {"event_id": event_id, "occurred_at": occurred_at, "leaf": leaf}


def _write_tiles(session: ScopedSession, number: int, size: int, hashes: list[bytes]) -> None:
    def read(level: int, n: int) -> bytes:
        found = select(LogTileRow.hashes).filter_by(log=number, level=level, n=n)
        return bytes(session.scalars(found).one())

    for tile in grow(size, hashes, read):
        row = {"log": number, "level": tile.level, "n": tile.n, "hashes": tile.hashes}
        written = upsert(LogTileRow).values(row)
        keys = ["log", "level", "n"]
        session.execute(
            written.on_conflict_do_update(index_elements=keys, set_={"hashes": tile.hashes})
        )


def _moment() -> datetime:
    return datetime.fromtimestamp(AT, UTC)
