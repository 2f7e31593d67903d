"""Sessions of the ledger's role, each on a connection of its own, and signed events for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from flask import Flask
from sqlalchemy import Connection, text

from tests.audit.events import make_event, members_of
from tests.connections import engine_beside
from webapp.audit import append
from webapp.audit.append import Received, SignedEvent
from webapp.audit.event import AuditEvent, dump_event
from webapp.audit.signature import sign_event
from webapp.db.limits import limits_of_statements
from webapp.db.scopes import LedgerScope
from webapp.db.session import ScopedSession


def sign(app: Flask, data: bytes) -> str:
    """The signature of this application's process."""
    return sign_event(app.extensions["settings"].signing_key, data)


NO_SIGNATURE = f"{0:016x}:{'A' * 86}"
"""What has the form of a signature, and no key has made."""


def unsigned(event: AuditEvent) -> SignedEvent:
    """An event under a signature that no key has made."""
    return SignedEvent(event, dump_event(event), NO_SIGNATURE)


def seal(app: Flask, *events: AuditEvent) -> list[list[str]]:
    """Return a delivery of these events."""
    dumped = [dump_event(event) for event in events]
    return [[data.decode(), sign(app, data)] for data in dumped]


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
        received = append.receive(session, delivery)
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
