"""The only door in: a request's looks, each recorded once, settled before any byte of the answer.

`flask.g` holds one event for each (actor, surface, reason). Entering the same surface again counts
as a repeat. When the answer is known, `settle` gives every event its outcome and hands them off;
the answer carries their ids. What becomes of the request's own transaction changes nothing.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

import structlog
from flask import Flask, Response, current_app, g, request
from prometheus_client import Counter
from uuid_utils.compat import uuid7

from webapp.audit.event import (
    Actor,
    AuditEvent,
    EventDecision,
    EventRequest,
    EventScope,
    Kind,
    Outcome,
    Reason,
)
from webapp.audit.handoff import HandOff, HandOffFailed
from webapp.errors import AuditUnavailable, problem

RECEIPT_HEADER = "Sightline-Audit"
MAX_PATH = 2048
MAX_USER_AGENT = 512

log = structlog.get_logger()

LOOKS = Counter(
    "sightline_audit_looks_total", "Looks recorded, by surface and outcome.", ("surface", "outcome")
)
REFUSED = Counter(
    "sightline_audit_refused_total", "Answers withheld because their looks were not accepted."
)


@dataclass(frozen=True)
class Look:
    """What is known when a surface is entered."""

    kind: Kind
    actor: Actor
    surface: str
    reason: Reason | None
    scope: EventScope
    decision: EventDecision


@dataclass(frozen=True)
class _Noted:
    id: UUID
    occurred_at: datetime
    look: Look
    rows: int | None = None
    repeats: int = 1


_Key = tuple[UUID, str, Reason | None]


class ScopeChanged(RuntimeError):
    """One request used one surface, for one reason, in two scopes: a programming error, since a
    single record cannot tell both. Give the second look a surface of its own."""


def init_app(app: Flask, hand_off: HandOff) -> None:
    app.extensions["audit"] = hand_off
    app.after_request(settle)


def note(look: Look) -> UUID:
    """Record a look, or count it as a repeat of one noted in this request; returns its event id."""
    noted = _noted()
    key: _Key = (look.actor.id, look.surface, look.reason)
    before = noted.get(key)
    if before is None:
        noted[key] = _Noted(id=uuid7(), occurred_at=datetime.now(UTC), look=look)
    elif before.look != look:
        raise ScopeChanged(look.surface)
    else:
        noted[key] = replace(before, repeats=before.repeats + 1)
    return noted[key].id


def count_rows(surface: str, rows: int) -> None:
    """Say how many rows the answer shows of a surface; repeats add up."""
    noted = _noted()
    for key, entry in noted.items():
        if entry.look.surface == surface:
            noted[key] = replace(entry, rows=(entry.rows or 0) + rows)


def settle(response: Response) -> Response:
    """Hand the request's events off, or answer 503 in place of what they would have vouched for."""
    noted = _noted()
    if not noted:
        return response
    events = [_event(entry, response.status_code) for entry in noted.values()]
    hand_off: HandOff = current_app.extensions["audit"]
    try:
        hand_off.hand_off(events)
    except HandOffFailed:
        log.exception("audit_hand_off_failed", events=[str(event.id) for event in events])
        REFUSED.inc()
        return problem(AuditUnavailable())
    for event in events:
        LOOKS.labels(event.surface, event.outcome).inc()
    response.headers[RECEIPT_HEADER] = ", ".join(str(event.id) for event in events)
    return response


def _noted() -> dict[_Key, _Noted]:
    if "audit" not in g:
        g.audit = {}
    noted: dict[_Key, _Noted] = g.audit
    return noted


def _event(noted: _Noted, status: int) -> AuditEvent:
    look = noted.look
    return AuditEvent(
        id=noted.id,
        occurred_at=noted.occurred_at,
        kind=look.kind,
        actor=look.actor,
        surface=look.surface,
        reason=look.reason,
        scope=look.scope,
        decision=look.decision,
        outcome=_outcome(look, status),
        http_status=status,
        rows=noted.rows,
        repeats=noted.repeats,
        request=EventRequest(
            id=g.request_id,
            method=request.method,
            path=_printable(request.path[:MAX_PATH]),
            ip=request.remote_addr,
            user_agent=_printable(request.user_agent.string[:MAX_USER_AGENT]) or None,
        ),
    )


def _outcome(look: Look, status: int) -> Outcome:
    if look.decision.effect != "allowed":
        return "denied"
    return "served" if status < 400 else "failed"


def _printable(text: str) -> str:
    """PostgreSQL takes no NUL and a log reader no control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
