"""Audit events for tests."""

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from webapp.audit.event import (
    Actor,
    AuditEvent,
    EventDecision,
    EventOrigin,
    EventRequest,
    EventScope,
    ExcludedTenants,
    Reason,
    moment_of,
    new_event_id,
    new_salt,
)
from webapp.db.scopes import Exclusion


def make_event(**changes: Any) -> AuditEvent:
    """Make an event. It occurred at the moment inside its id, unless both are given."""
    event_id = changes.pop("id", None) or new_event_id(changes.pop("occurred_at", None))
    event = AuditEvent(
        id=event_id,
        occurred_at=moment_of(event_id),
        kind="access",
        actor=Actor(
            id=uuid4(), email="engineer@example.org", roles=("engineer",), token_id=uuid4()
        ),
        surface="accesses.things",
        reason=Reason(code="incident", ticket="INC-1", note=None),
        scope=EventScope(kind="global", tenant=None, tenant_id=None),
        decision=EventDecision("allowed"),
        outcome="served",
        http_status=200,
        rows=3,
        salt=new_salt(),
        repeats=1,
        request=make_request(uuid4().hex),
        origin=EventOrigin(uuid4(), 1),
    )
    return replace(event, **changes)


def make_request(request_id: str) -> EventRequest:
    return EventRequest(
        id=request_id,
        ip="127.0.0.1",
        method="GET",
        path="/admin/accesses/things",
        user_agent=None,
    )


def excluding(tenants: frozenset[UUID], **changes: Any) -> AuditEvent:
    """Make the event of an access to all tenants but these."""
    exclusion = Exclusion(tenants)
    excluded = ExcludedTenants(len(tenants), exclusion.digest, exclusion.setting)
    return make_event(decision=EventDecision("allowed", excluded=excluded), **changes)


def members_of(event: AuditEvent) -> str:
    """The set that an event names, as it travels."""
    assert event.decision.excluded is not None
    return event.decision.excluded.members


def as_json(value: Any) -> Any:
    """Return an event in the form that RFC 8785's reference implementation takes."""
    match value:
        case UUID():
            return str(value)
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case dict():
            return {k: as_json(inner) for k, inner in value.items() if not k.startswith("_")}
        case list() | tuple():
            return [as_json(inner) for inner in value]
    return value
