"""The only door in: a request's looks, each recorded once, settled before any byte of the answer.

`flask.g` holds one event for each (actor, surface, reason). Entering the same surface again counts
as a repeat. When the answer is known, `settle` gives every event its outcome and hands them off;
the answer carries their ids. What becomes of the request's own transaction changes nothing. A
request that ends without an answer has its looks recorded as interrupted.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

import structlog
from celery import Celery
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
from webapp.audit.handoff import HandOff, SealedEvent
from webapp.errors import AuditUnavailable, problem
from webapp.settings import Settings

RECEIPT_HEADER = "Sightline-Audit"
COMMIT_TASK = "audit.commit"
_SETTLED = "sightline.audit_settled"
MAX_PATH = 2048
MAX_USER_AGENT = 512

log = structlog.get_logger()

LOOKS = Counter(
    "sightline_audit_looks_total", "Looks recorded, by surface and outcome.", ("surface", "outcome")
)
REFUSED = Counter(
    "sightline_audit_refused_total", "Requests left without an answer as their looks were refused."
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
_Notes = dict[_Key, _Noted]


class ScopeChanged(RuntimeError):
    """One request used one surface, for one reason, in two scopes: a programming error, since a
    single record cannot tell both. Give the second look a surface of its own."""


class TooLate(RuntimeError):
    """A surface was entered after the answer had been vouched for, by a stream for one: a
    programming error, since what it shows would leave without a record."""


def init_app(app: Flask) -> None:
    """Set up by `app.extensions["settings"]` and `["celery"]`; sends nothing yet."""
    settings: Settings = app.extensions["settings"]
    celery: Celery = app.extensions["celery"]

    def send(batch: list[SealedEvent]) -> None:
        celery.send_task(
            COMMIT_TASK,
            args=[batch],
            ignore_result=True,
            retry=False,
            # Else Celery spells the events out once more, for its logs.
            argsrepr="",
            kwargsrepr="",
        )

    key = settings.audit_mac_key.encode()
    app.extensions["audit"] = HandOff(send, key, settings.audit_timeout)
    app.after_request(settle)
    app.teardown_request(_settle_interrupted)


def note(look: Look) -> UUID:
    """Record a look, or count it as a repeat of one noted in this request; returns its event id."""
    if _SETTLED in request.environ:
        raise TooLate(look.surface)
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
    noted: _Notes = g.get("audit", {})
    for key, entry in noted.items():
        if entry.look.surface == surface:
            noted[key] = replace(entry, rows=(entry.rows or 0) + rows)


def settle(response: Response) -> Response:
    """Hand the request's events off, or answer 503 in place of what they would have vouched for."""
    noted = g.pop("audit", None)
    request.environ[_SETTLED] = True
    if not noted:
        return response
    events = _hand_off(noted, response.status_code)
    if events is None:
        response.close()
        return problem(AuditUnavailable())
    response.headers[RECEIPT_HEADER] = ", ".join(str(event.id) for event in events)
    return response


def _settle_interrupted(_: BaseException | None) -> None:
    """Hand off what no answer was made for; and leave `g` to the next request, should both run in
    an application context that somebody else has pushed."""
    noted = g.pop("audit", None)
    if noted:
        _hand_off(noted, None)


def _hand_off(noted: _Notes, status: int | None) -> list[AuditEvent] | None:
    """The events of what was noted, once they are accepted; `None` where they are not."""
    hand_off: HandOff = current_app.extensions["audit"]
    try:
        events = [_event(entry, status) for entry in noted.values()]
        hand_off.hand_off(events)
    except Exception:  # whatever it is, what was not recorded is not shown
        log.exception("audit_hand_off_failed", events=[str(entry.id) for entry in noted.values()])
        REFUSED.inc()
        return None
    for event in events:
        LOOKS.labels(event.surface, event.outcome).inc()
    return events


def _noted() -> _Notes:
    if "audit" not in g:
        g.audit = {}
    noted: _Notes = g.audit
    return noted


def _event(noted: _Noted, status: int | None) -> AuditEvent:
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


def _outcome(look: Look, status: int | None) -> Outcome:
    if look.decision.effect != "allowed":
        return "denied"
    if status is None:
        return "interrupted"
    return "served" if status < 400 else "failed"


def _printable(text: str) -> str:
    """PostgreSQL takes no NUL and a log reader no control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
