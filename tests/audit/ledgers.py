"""Sessions of the ledger's role, each on a connection of its own, and sealed events for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from flask import Flask
from sqlalchemy import Connection, text

from tests.audit.events import make_event, members_of
from tests.connections import engine_beside
from webapp.audit import append
from webapp.audit.append import Received
from webapp.audit.event import AuditEvent, dump_event, event_mac
from webapp.db.limits import limits_of_statements
from webapp.db.scopes import LedgerScope
from webapp.db.session import ScopedSession
from webapp.key_ring import KeyRing


def key_of(app: Flask) -> KeyRing:
    keys: KeyRing = app.extensions["settings"].audit_mac_keys
    return keys


def seal(app: Flask, *events: AuditEvent) -> list[list[str]]:
    """Return a delivery of these events."""
    dumped = [dump_event(event) for event in events]
    return [[data.decode(), event_mac(data, key_of(app))] for data in dumped]


@contextmanager
def ledger_session(app: Flask, lock_timeout: str = "120s") -> Iterator[ScopedSession]:
    engine = engine_beside(app, app.extensions["settings"].database_url, lock_timeout)
    with ScopedSession(engine, limits=limits_of_statements(60)) as session:
        session.enter(LedgerScope())
        yield session


@contextmanager
def owner_connection(app: Flask) -> Iterator[Connection]:
    """A transaction of the tables' owner, committed at the end."""
    engine = engine_beside(app, app.extensions["settings"].database_owner_url, "180s")
    with engine.begin() as connection:
        yield connection


def deliver(app: Flask, delivery: Any) -> Received:
    """Append and commit a delivery as a worker does."""
    with ledger_session(app) as session:
        received = append.receive(session, delivery, key_of(app))
        session.commit()
    return received


def append_events(app: Flask, *events: AuditEvent) -> None:
    sets = [[members_of(event)] for event in events if event.decision.excluded]
    received = deliver(app, [*sets, *seal(app, *events)])
    assert (received.appended, received.quarantined) == (len(events), ())


def events_of(month: datetime, count: int = 1) -> list[AuditEvent]:
    return [make_event(occurred_at=month) for _ in range(count)]


def is_blocked(app: Flask, session_pid: int) -> bool:
    """Return whether a connection waits for a lock."""
    with owner_connection(app) as owner:
        blocking = text("select cardinality(pg_blocking_pids(:pid)) > 0")
        return bool(owner.scalar(blocking, {"pid": session_pid}))
