"""Changes without a request, recorded in the transaction that makes them.

An operator's command and a task have no journal. The database numbers their events, and commits
each with its change or not at all.
"""

from datetime import datetime
from uuid import UUID, uuid4

from webapp.audit import append
from webapp.audit.event import (
    Actor,
    AuditEvent,
    EventDecision,
    EventRequest,
    EventScope,
    Reason,
    moment_of,
    new_event_id,
)
from webapp.db.session import ScopedSession

_NO_USER = UUID(int=0)
SIGHTLINE = Actor(email="sightline", id=_NO_USER, roles=(), token_id=None)
"""The application itself."""
OPERATOR = Actor(email="operator", id=_NO_USER, roles=(), token_id=None)
"""A person who runs a command on the host."""

ALL_TENANTS_TARGET = EventScope(kind="global", tenant=None, tenant_id=None)


def origin(method: str, path: str) -> EventRequest:
    """Return the request of an event that had none: `CLI` and a command, or `TASK` and a task."""
    return EventRequest(id=uuid4().hex, ip=None, method=method, path=path, user_agent=None)


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
    """Return the event of a change that was made at the moment `at`, by default now."""
    event_id = new_event_id(at)
    return AuditEvent(
        actor=actor,
        decision=EventDecision("allowed", grant_ids=grants),
        http_status=None,
        id=event_id,
        kind="change",
        occurred_at=moment_of(event_id),
        outcome="served",
        reason=reason,
        repeats=1,
        request=request,
        rows=rows,
        scope=scope,
        surface=surface,
    )


def record_command(session: ScopedSession, *words: str, rows: int = 1) -> None:
    """Record a command that changes something, by its group, its name and its arguments.

    The arguments must not hold a secret. The caller commits.
    """
    group, name, *_ = words
    event = change(f"{group}.{name}", origin("CLI", " ".join(("flask", *words))), rows=rows)
    append.append_own(session, [event])
