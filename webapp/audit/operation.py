"""What happens without a request: changes, recorded in the transaction that makes them, and what
commands read.

An operator's command and a task have no journal. The database numbers their events, and commits
each with its change or not at all.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from uuid import UUID, uuid4

from webapp.audit.event import (
    NOBODY,
    Actor,
    AuditEvent,
    EventDecision,
    EventRequest,
    EventScope,
    Reason,
    moment_of,
    new_event_id,
    new_salt,
)
from webapp.db.operator import current_operator

SIGHTLINE = Actor(email="sightline", id=NOBODY, roles=(), token_id=None)
"""The application itself."""
OPERATOR = "operator"
"""What the names of those who run commands on a host begin with."""

ALL_TENANTS_TARGET = EventScope(kind="global", tenant=None, tenant_id=None)


def operator() -> Actor:
    """The person who runs a command on the host, as the actor of its events."""
    running = current_operator()
    email = f"{OPERATOR}:{running.name}" if running else OPERATOR
    return Actor(email=email, id=NOBODY, roles=(), token_id=None)


def origin(method: str, path: str) -> EventRequest:
    """Return the request of an event that had none: `CLI` and a command, or `TASK` and a task."""
    running = current_operator()
    agent = running.account if running else None
    return EventRequest(id=uuid4().hex, ip=None, method=method, path=path, user_agent=agent)


def change(
    surface: str,
    request: EventRequest,
    *,
    actor: Actor | None = None,
    scope: EventScope = ALL_TENANTS_TARGET,
    at: datetime | None = None,
    rows: int = 1,
    reason: Reason | None = None,
    grants: tuple[UUID, ...] = (),
) -> AuditEvent:
    """Return the event of a change that was made at the moment `at`, by default now.

    The actor is by default the operator.
    """
    event_id = new_event_id(at)
    return AuditEvent(
        actor=actor or operator(),
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
        salt=new_salt(),
        scope=scope,
        surface=surface,
    )


def access_of_command(
    command: str, reason: Reason, scope: EventScope, terms: dict[str, str] | None
) -> AuditEvent:
    """Return the event of a command that reads tenants' rows now, without their number."""
    request = origin("CLI", f"flask {command}")
    made = change(command.replace(" ", "."), request, scope=scope, reason=reason)
    return replace(made, kind="access", rows=None, terms=terms)


def changes_of_command(begun: AuditEvent, changed: Mapping[EventScope, int]) -> list[AuditEvent]:
    """Return the events of a command that changes what it reads: one for each tenant that it
    concerns. `changed` has the number of changed rows of each, and of the platform."""
    return [
        change(begun.surface, begun.request, scope=scope, rows=rows, reason=begun.reason)
        for scope, rows in changed.items()
    ]


def tenant_scope(tenant_id: UUID | None, slug: str | None) -> EventScope:
    """The scope of an event that concerns a tenant, or the platform where there is none."""
    if slug is None and tenant_id is None:
        return ALL_TENANTS_TARGET
    return EventScope(kind="tenant", tenant=slug, tenant_id=tenant_id)
