"""The audit event: a frozen value, its canonical bytes and its MAC."""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from uuid import UUID

import orjson

Kind = Literal["look", "change"]
ScopeKind = Literal["tenant", "global"]
Effect = Literal["allowed", "denied", "approval_required"]
Outcome = Literal["served", "denied", "failed", "interrupted"]


class EventError(ValueError):
    """Bytes that are not an audit event of ours."""


@dataclass(frozen=True)
class Actor:
    id: UUID
    email: str
    roles: tuple[str, ...]
    token_id: UUID | None


@dataclass(frozen=True)
class Reason:
    code: str
    ticket: str | None
    note: str | None


@dataclass(frozen=True)
class EventScope:
    kind: ScopeKind
    tenant_id: UUID | None
    tenant: str | None
    """The slug that was asked for, also when no tenant has it."""


@dataclass(frozen=True)
class EventDecision:
    effect: Effect
    rule_ids: tuple[UUID, ...] = ()
    excluded_tenant_ids: tuple[UUID, ...] = ()


@dataclass(frozen=True)
class EventRequest:
    id: str
    method: str
    path: str
    ip: str | None
    user_agent: str | None


@dataclass(frozen=True)
class AuditEvent:
    """One look (or change), as it will stand in the ledger. Every field is covered by the MAC."""

    id: UUID
    occurred_at: datetime
    kind: Kind
    actor: Actor
    surface: str
    reason: Reason | None
    """`None` only for a change in one's own scope, which needs no reason."""
    scope: EventScope
    decision: EventDecision
    outcome: Outcome
    http_status: int
    rows: int | None
    """How many rows the answer held; `None` where a surface does not count them."""
    repeats: int
    """How many times the surface was entered in this request, the first included."""
    request: EventRequest


def dump_event(event: AuditEvent) -> bytes:
    """Canonical bytes (RFC 8785): all keys are ASCII, all numbers integers, so that sorted keys and
    orjson's escaping are that form."""
    return orjson.dumps(event, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)


def load_event(data: bytes) -> AuditEvent:
    """The event of canonical bytes; raises `EventError` on anything else."""
    try:
        raw = orjson.loads(data)
        event = AuditEvent(
            id=UUID(raw["id"]),
            occurred_at=datetime.fromisoformat(raw["occurred_at"]).astimezone(UTC),
            kind=_one_of(Kind, raw["kind"]),
            actor=Actor(
                id=UUID(raw["actor"]["id"]),
                email=raw["actor"]["email"],
                roles=tuple(raw["actor"]["roles"]),
                token_id=_uuid(raw["actor"]["token_id"]),
            ),
            surface=raw["surface"],
            reason=Reason(**raw["reason"]) if raw["reason"] else None,
            scope=EventScope(
                kind=_one_of(ScopeKind, raw["scope"]["kind"]),
                tenant_id=_uuid(raw["scope"]["tenant_id"]),
                tenant=raw["scope"]["tenant"],
            ),
            decision=EventDecision(
                effect=_one_of(Effect, raw["decision"]["effect"]),
                rule_ids=_uuids(raw["decision"]["rule_ids"]),
                excluded_tenant_ids=_uuids(raw["decision"]["excluded_tenant_ids"]),
            ),
            outcome=_one_of(Outcome, raw["outcome"]),
            http_status=raw["http_status"],
            rows=raw["rows"],
            repeats=raw["repeats"],
            request=EventRequest(**raw["request"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EventError("not an audit event") from error
    if dump_event(event) != data:
        raise EventError("not the canonical form of an audit event")
    return event


def event_mac(data: bytes, key: bytes) -> str:
    """Hex HMAC-SHA-256 over an event's canonical bytes."""
    return hmac.new(key, data, hashlib.sha256).hexdigest()


def has_valid_mac(data: bytes, mac: str, key: bytes) -> bool:
    return hmac.compare_digest(event_mac(data, key).encode(), mac.encode())


def _one_of(literal: Any, value: object) -> Any:
    if value not in get_args(literal):
        raise EventError(f"{value!r} is none of {get_args(literal)}")
    return value


def _uuid(value: str | None) -> UUID | None:
    return UUID(value) if value is not None else None


def _uuids(values: list[str]) -> tuple[UUID, ...]:
    return tuple(UUID(value) for value in values)
