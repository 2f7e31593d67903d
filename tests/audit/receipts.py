"""Receipts of answers, and reading the ledger until a worker has committed their events."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from uuid import UUID, uuid4

from flask import Flask
from sqlalchemy import select

from tests.connections import engine_beside
from webapp.audit.models import AuditEventRow, ExcludedSetRow
from webapp.audit.recorder import RECEIPT_HEADER
from webapp.db.limits import limits_of_statements
from webapp.db.scopes import GlobalScope
from webapp.db.session import ScopedSession

PATIENCE = 180
POLL = 0.02


class ReceivedAnswer(Protocol):
    """An answer of Flask's test client, or of requests."""

    @property
    def headers(self) -> Any: ...


def receipt(answer: ReceivedAnswer) -> list[UUID]:
    """Return the ids of an answer's audit events."""
    return [
        UUID(part.strip()) for part in answer.headers.get(RECEIPT_HEADER, "").split(",") if part
    ]


@contextmanager
def second_connection(app: Flask) -> Iterator[ScopedSession]:
    """Open a session outside of any request and of the application's pool. It sees every event."""
    engine = engine_beside(app, app.extensions["settings"].database_url)
    with ScopedSession(engine, limits=limits_of_statements(60)) as session:
        session.enter(GlobalScope(access_id=uuid4()))
        yield session


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(POLL)


def committed(app: Flask, *ids: UUID) -> list[Mapping[str, Any]]:
    """Wait until the ledger has all these events, and return them in this order."""
    assert ids
    with second_connection(app) as session:
        query = select(AuditEventRow.id, AuditEventRow.event).where(AuditEventRow.id.in_(ids))
        events: dict[UUID, Mapping[str, Any]] = {}

        def all_there() -> bool:
            events.update({row.id: row.event for row in session.execute(query)})
            session.rollback()
            return events.keys() == set(ids)

        wait_for(all_there)
    return [events[event_id] for event_id in ids]


def committed_of_request(app: Flask, request_id: str) -> list[Mapping[str, Any]]:
    """Wait until the ledger has a request's events, which are committed together; return them."""
    wait_for(lambda: bool(events_of_request(app, request_id)))
    return events_of_request(app, request_id)


def events_of_request(app: Flask, request_id: str) -> list[Mapping[str, Any]]:
    """Return the events of a request that are in the ledger now, in the order they began.

    `request_id` is the answer's `X-Request-ID`, or the one that the client has sent.
    """
    with second_connection(app) as session:
        given = AuditEventRow.event["request"]["x_request_id"].as_string()
        named = (AuditEventRow.request_id == request_id) | (given == request_id)
        query = select(AuditEventRow.event).where(named)
        return list(session.scalars(query.order_by(AuditEventRow.id)))


def excluded_by(app: Flask, event: Mapping[str, Any]) -> list[UUID]:
    """Return the tenants that an event's access left out, from the set that it names."""
    named = event["decision"]["excluded"]
    if named is None:
        return []
    with second_connection(app) as session:
        kept = select(ExcludedSetRow.tenant_ids).where(ExcludedSetRow.digest == named["digest"])
        tenants = session.scalars(kept).one()
    assert len(tenants) == named["count"]
    return tenants
