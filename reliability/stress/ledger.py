"""The events of a run, once the worker has nothing left to commit."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any
from uuid import UUID, uuid4

import redis
from flask import Flask
from sqlalchemy import func, select

from webapp.audit.models import AuditEventRow
from webapp.db.scopes import GlobalScope
from webapp.extensions import db

DRAIN = 60.0
"""Seconds that the worker has for what is left."""

SENT = AuditEventRow.event["request"]["x_request_id"].as_string()
"""The id that the client gave its request."""

POLL = 0.25
QUIET = 4
"""How many times in a row the queue must be empty and no new event have come."""


@dataclass(frozen=True)
class Recorded:
    """An event in the ledger."""

    id: UUID
    request_id: str
    actor_id: UUID
    surface: str
    event: Mapping[str, Any]
    """The event as it was recorded."""


def read_once_drained(app: Flask, broker: redis.Redis, run: str) -> list[Recorded]:
    """Read the events of requests whose ids begin with `run`, once no more come or the time is
    up."""
    deadline, quiet, count = monotonic() + DRAIN, 0, -1
    while quiet < QUIET and monotonic() < deadline:
        sleep(POLL)
        before, count = count, _count(app, run)
        queued = broker.llen("audit") or broker.hlen("unacked")
        quiet = quiet + 1 if count == before and not queued else 0
    return _read(app, run)


def _count(app: Flask, run: str) -> int:
    with app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        ours = select(func.count()).where(SENT.startswith(run))
        return db.session.scalars(ours).one()


def _read(app: Flask, run: str) -> list[Recorded]:
    row = AuditEventRow
    columns = (row.id, SENT, row.actor_id, row.surface, row.event)
    with app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        rows = db.session.execute(select(*columns).where(SENT.startswith(run)))
        return [Recorded(*found) for found in rows]
