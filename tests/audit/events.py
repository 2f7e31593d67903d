"""Audit events for tests, and Hypothesis strategies for them."""

import string
from base64 import urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from hypothesis import strategies as st

from webapp.audit.event import (
    Actor,
    AuditEvent,
    EventDecision,
    EventOrigin,
    EventRequest,
    EventScope,
    ExcludedTenants,
    Reason,
    Via,
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


texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
counts = st.integers(0, 2**53 - 1)
uuid_tuples = st.lists(st.uuids(), max_size=3).map(tuple)
moments = st.datetimes(timezones=st.just(UTC))

effects = st.sampled_from(["allowed", "denied", "approval_required"])
salts = st.binary(min_size=16, max_size=16).map(
    lambda salt: urlsafe_b64encode(salt).decode().rstrip("=")
)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
decisions = st.builds(
    EventDecision,
    effect=effects,
    rule_ids=uuid_tuples,
    excluded=st.none() | st.builds(ExcludedTenants, count=counts, digest=digests),
    grant_ids=uuid_tuples,
    policy_version=st.none() | counts,
)


def in_order(terms: dict[str, str]) -> dict[str, str]:
    return dict(sorted(terms.items()))


events = st.builds(
    AuditEvent,
    id=st.uuids(),
    occurred_at=moments,
    kind=st.sampled_from(["access", "change"]),
    actor=st.builds(
        Actor,
        id=st.uuids(),
        email=texts,
        mfa=st.booleans(),
        roles=st.lists(texts, max_size=3).map(tuple),
        token_id=st.none() | st.uuids(),
    ),
    surface=texts,
    terms=st.none()
    | st.dictionaries(st.text(string.ascii_lowercase), texts, min_size=1).map(in_order),
    via=st.none() | st.builds(Via, email=texts, id=st.uuids(), token_id=st.none() | st.uuids()),
    reason=st.none()
    | st.builds(Reason, code=texts, note=st.none() | texts, ticket=st.none() | texts),
    scope=st.builds(
        EventScope,
        kind=st.sampled_from(["tenant", "global"]),
        tenant=st.none() | texts,
        tenant_id=st.none() | st.uuids(),
    ),
    decision=decisions,
    outcome=st.sampled_from(["served", "denied", "failed", "interrupted"]),
    http_status=st.none() | counts,
    rows=st.none() | counts,
    salt=salts,
    repeats=counts,
    request=st.builds(
        EventRequest,
        id=texts,
        ip=st.none() | texts,
        method=texts,
        path=texts,
        user_agent=st.none() | texts,
        x_request_id=st.none() | texts,
    ),
    origin=st.builds(EventOrigin, journal=st.uuids(), seq=counts),
)


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
