"""What is changed without a request, recorded in the transaction that changes it.

An operator's command and a task have no journal: their events are numbered by the database itself,
and are committed with what they tell of, or not at all.
"""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from webapp.audit import append as ledger
from webapp.audit.event import (
    Actor,
    AuditEvent,
    EventDecision,
    EventRequest,
    EventScope,
    Reason,
)

_NOBODY = UUID(int=0)
SIGHTLINE = Actor(email="sightline", id=_NOBODY, roles=(), token_id=None)
OPERATOR = Actor(email="operator", id=_NOBODY, roles=(), token_id=None)
"""Somebody at the machine."""

ALL_TENANTS_TARGET = EventScope(kind="global", tenant=None, tenant_id=None)


def origin(method: str, path: str, request_id: str | None = None) -> EventRequest:
    """What an event tells of its request, where there was none: `CLI` and a command, or `TASK`."""
    return EventRequest(
        id=request_id or uuid4().hex, ip=None, method=method, path=path, user_agent=None
    )


def change(
    surface: str,
    request: EventRequest,
    *,
    actor: Actor = OPERATOR,
    scope: EventScope = ALL_TENANTS_TARGET,
    at: datetime | None = None,
    rows: int = 1,
    reason: Reason | None = None,
    grants: tuple[UUID, ...] = (),
) -> AuditEvent:
    """The event of a change; `at` is now unless it says otherwise."""
    return AuditEvent(
        actor=actor,
        decision=EventDecision("allowed", grant_ids=grants),
        http_status=None,
        id=uuid7(),
        kind="change",
        occurred_at=at or datetime.now(UTC),
        outcome="served",
        reason=reason,
        repeats=1,
        request=request,
        rows=rows,
        scope=scope,
        surface=surface,
    )


def record_command(session: Session, *words: str, rows: int = 1) -> None:
    """Record a command that changes something: its group, its name, and what it was given. Never a
    secret. The caller commits."""
    group, name, *_ = words
    event = change(f"{group}.{name}", origin("CLI", " ".join(("flask", *words))), rows=rows)
    ledger.append_own(session, [event])
