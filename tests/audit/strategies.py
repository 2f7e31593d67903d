"""Hypothesis strategies for audit events."""

import string
from base64 import urlsafe_b64encode
from datetime import UTC

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
)

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
