"""The ledger read over a connection of its own, and waiting for what a worker commits to it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from uuid import UUID, uuid4

from flask import Flask
from sqlalchemy import NullPool, create_engine, select

from webapp.audit.models import AuditEventRow
from webapp.audit.recorder import RECEIPT_HEADER
from webapp.db.scopes import GlobalScope
from webapp.db.session import ScopedSession

PATIENCE = 180
POLL = 0.02


class Answer(Protocol):
    """Flask's test client's, or that of requests."""

    @property
    def headers(self) -> Any: ...


def receipt(answer: Answer) -> list[UUID]:
    """The ids of an answer's audit events."""
    return [
        UUID(part.strip()) for part in answer.headers.get(RECEIPT_HEADER, "").split(",") if part
    ]


@contextmanager
def second_connection(app: Flask) -> Iterator[ScopedSession]:
    """A session of no request's and of no pool, that sees every event."""
    engine = create_engine(app.extensions["settings"].database_url, poolclass=NullPool)
    with ScopedSession(engine) as session, session.scoped(GlobalScope(access_id=uuid4())):
        yield session


def wait_for(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(POLL)


def committed(app: Flask, *ids: UUID) -> list[Mapping[str, Any]]:
    """These events out of the ledger, in this order, as soon as all of them are there."""
    assert ids
    with second_connection(app) as session:
        asked = select(AuditEventRow.id, AuditEventRow.event).where(AuditEventRow.id.in_(ids))
        events: dict[UUID, Mapping[str, Any]] = {}

        def all_there() -> bool:
            events.update({row.id: row.event for row in session.execute(asked)})
            session.rollback()
            return events.keys() == set(ids)

        wait_for(all_there)
    return [events[event_id] for event_id in ids]


def committed_of_request(app: Flask, request_id: str) -> list[Mapping[str, Any]]:
    """All the events of a request, as soon as there is one: they are committed together."""
    wait_for(lambda: bool(events_of_request(app, request_id)))
    return events_of_request(app, request_id)


def events_of_request(app: Flask, request_id: str) -> list[Mapping[str, Any]]:
    """The events of a request that are in the ledger now, in the order they were noted."""
    with second_connection(app) as session:
        asked = select(AuditEventRow.event).where(AuditEventRow.request_id == request_id)
        return list(session.scalars(asked.order_by(AuditEventRow.id)))
