"""Databases with a log of their own, and the checks that every log has to pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg2
import psycopg2.extensions
from click.testing import Result
from flask import Flask
from psycopg2 import sql
from sqlalchemy import make_url, select

from tests.applications import application_of
from tests.audit.events import make_event, make_request
from webapp.audit import append
from webapp.audit.event import AuditEvent, EventScope
from webapp.db.scopes import SealingScope
from webapp.extensions import db
from webapp.ledger.sealing import sealer, store
from webapp.ledger.sealing.following import Host, follow_and_report, this_host
from webapp.ledger.sealing.keys import LogKeys, log_keys
from webapp.ledger.sealing.leaf import EventLeaf, HeartbeatLeaf, commitment_of, parse_leaf
from webapp.ledger.sealing.merkle import hash_leaf, root_from_hashes
from webapp.ledger.sealing.models import LogEntryRow, LogRow
from webapp.ledger.sealing.note import open_checkpoint
from webapp.ledger.sealing.numbering import label_of
from webapp.ledger.sealing.sealer import Sealed
from webapp.ledger.sealing.store import Tiles
from webapp.ledger.sealing.tiles import tiles_of
from webapp.settings import Settings, current_settings
from webapp.stack.home import Stack


@dataclass(frozen=True)
class Server:
    """A PostgreSQL on which databases are copied."""

    stack: Stack
    password: str

    def run(self, database: str, *statements: str | sql.Composable) -> list[tuple[Any, ...]]:
        """Run SQL as the superuser; returns the rows of the last statement."""
        with self.connected(database) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def connected(self, database: str) -> Iterator[psycopg2.extensions.connection]:
        """Connect as the superuser."""
        url = self.stack.postgres.url("postgres", self.password, database)
        connection = psycopg2.connect(url)
        try:
            yield connection
        finally:
            connection.close()

    def copy(self, source: str, name: str) -> None:
        """Copy a database to which nobody is connected, as a dump and its restore do."""
        create, drop = "create database {} template {}", "drop database if exists {}"
        names = sql.Identifier(name), sql.Identifier(source)
        self.run("postgres", sql.SQL(drop).format(names[0]), sql.SQL(create).format(*names))


@dataclass(frozen=True)
class Ledger:
    """A database of one test, and an application that works on it."""

    server: Server
    name: str
    app: Flask

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        return self.server.run(self.name, *statements)

    def dump(self, name: str) -> None:
        """Keep a copy of the database as it is now."""
        self._disconnect()
        self.server.copy(self.name, name)

    def restore(self, name: str) -> None:
        """Put a copy in the place of the database."""
        self._disconnect()
        self.server.copy(name, self.name)

    def _disconnect(self) -> None:
        with self.app.app_context():
            db.engine.dispose()

    def commit(self, *events: AuditEvent) -> list[UUID]:
        """Append events to the ledger, as a task does that has no journal."""
        with self.app.app_context(), db.scoped(SealingScope()):
            append.append_own(db.session, events)
            db.session.commit()
        return [event.id for event in events]

    def seal(self, limit: int = sealer.BATCH, host: str | None = None) -> Sealed | None:
        """Seal a batch as a task does, with a copy; raises what a sealer raises."""
        with self.app.app_context(), db.scoped(SealingScope()):
            here = self.host(host)
            try:
                sealed = sealer.seal(db.session, here.keys, here.copies, here.name, limit)
            except BaseException:
                db.session.rollback()
                follow_and_report(db.session, here)
                db.session.commit()
                raise
            db.session.commit()
            if sealed is not None:
                follow_and_report(db.session, here)
                db.session.commit()
            return sealed

    def seal_all(self, limit: int = sealer.BATCH) -> int:
        """Seal until nothing waits; returns the size of the log."""
        while self.seal(limit) is not None:
            pass
        return self.log.size

    def seal_all_as(self, host: str) -> None:
        """Seal on another host, which has no copy of what was signed."""
        while self.seal(host=host) is not None:
            pass

    def flask(self, *arguments: str) -> Result:
        """Run a `flask` command."""
        return self.app.test_cli_runner().invoke(args=arguments)

    def follow(self, host: str) -> None:
        """Follow as a worker of another host does."""
        with self.app.app_context(), db.scoped(SealingScope()):
            follow_and_report(db.session, self.host(host))
            db.session.commit()

    def host(self, name: str | None = None) -> Host:
        """This host, or another one with a directory of its own beside this one's."""
        settings = current_settings()
        if name is None:
            return replace(this_host(settings), name="worker-1")
        directory = settings.checkpoint_dir.with_name(f"checkpoints-{name}")
        return replace(this_host(replace(settings, checkpoint_dir=directory)), name=name)

    def host_keys(self) -> LogKeys:
        return log_keys(self.app.extensions["settings"])

    @property
    def log(self) -> store.Log:
        with self.app.app_context(), db.scoped(SealingScope()):
            found = store.read_open(db.session)
        assert found is not None
        return found

    @property
    def directory(self) -> Path:
        settings: Settings = self.app.extensions["settings"]
        return settings.checkpoint_dir

    @property
    def problems(self) -> list[str]:
        with self.app.app_context(), db.scoped(SealingScope()):
            return [found.problem for found in store.read_problems(db.session)]

    def waiting(self) -> int:
        ((count,),) = self.run("select count(*) from log_queue")
        return int(count)


def access(tenant: UUID | None = None, **changes: Any) -> AuditEvent:
    """Make the event of a command's access to a tenant, or to all of them."""
    changes.setdefault("request", replace(make_request(uuid4().hex), method="CLI"))
    if tenant is not None:
        changes["scope"] = EventScope(kind="tenant", tenant="acme", tenant_id=tenant)
    return make_event(origin=None, **changes)


def accesses(count: int, tenants: Sequence[UUID] = ()) -> list[AuditEvent]:
    """Make events of accesses, of tenants in turns."""
    return [access(tenants[n % len(tenants)] if tenants else None) for n in range(count)]


@contextmanager
def ledger_on(server: Server, name: str, settings: Settings) -> Iterator[Ledger]:
    """Run an application on a database, which is dropped afterwards."""
    url = make_url(settings.database_url).set(database=name)
    own = replace(settings, database_url=url.render_as_string(hide_password=False))
    with application_of(own) as app:
        yield Ledger(server, name, app)


def check_log(ledger: Ledger, number: int = 1) -> list[EventLeaf | HeartbeatLeaf]:
    """Check a log from its entries: one tree without a gap, whose tiles and note say the same.

    Each event is sealed once, its leaf commits to it, and each series counts without a gap. Returns
    the leaves.
    """
    with ledger.app.app_context(), db.scoped(SealingScope()):
        log = db.session.get_one(LogRow, number)
        host = ledger.host()
        entries = store.read_entries(db.session, number, 0, 2**62)
        tiles = Tiles(db.session, number)
        secret = log.series_secret
        assert [entry.index for entry in entries] == list(range(log.size))
        hashes = [hash_leaf(entry.leaf) for entry in entries]
        assert root_from_hashes(hashes) == log.root
        for level, index in tiles_of(log.size):
            assert len(tiles.read(level, index.n)) == 32 * index.width
            if level == 0:
                first = index.n * 256
                assert tiles.read(level, index.n) == b"".join(hashes[first : first + index.width])
        assert log.checkpoint is not None
        checkpoint, _ = open_checkpoint(log.checkpoint.encode(), host.keys.verifiers(log.origin))
        assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (
            log.origin,
            log.size,
            log.root,
        )
    leaves = [parse_leaf(entry.leaf) for entry in entries]
    _check_events(ledger, number, leaves, secret)
    return leaves


def _check_events(
    ledger: Ledger, number: int, leaves: Sequence[EventLeaf | HeartbeatLeaf], secret: bytes
) -> None:
    found = ledger.run(
        "select l.event_id, e.event::text from log_entries l left join audit_events e"  # noqa: S608 - a number
        f" on e.id = l.event_id and e.occurred_at = l.occurred_at where l.log = {number}"
        " order by l.index"
    )
    counted: dict[str, int] = {}
    for leaf, (event_id, text) in zip(leaves, found, strict=True):
        if isinstance(leaf, HeartbeatLeaf):
            assert event_id is None
            label, last = "heartbeat", leaf.number
        else:
            event = orjson.loads(text)
            assert leaf.commitment == commitment_of(event)
            ((label, last),) = leaf.series
            assert label == label_of(event, secret)
        counted[label] = counted.get(label, 0) + 1
        assert last == counted[label]
    ids = [event_id for event_id, _ in found if event_id is not None]
    assert len(set(ids)) == len(ids)


def sealed_ids(ledger: Ledger, number: int = 1) -> list[UUID]:
    """The events that are sealed, in order."""
    with ledger.app.app_context(), db.scoped(SealingScope()):
        ids = select(LogEntryRow.event_id).where(LogEntryRow.log == number)
        return [i for i in db.session.scalars(ids.order_by(LogEntryRow.index)) if i is not None]
