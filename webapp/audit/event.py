"""The audit event: a frozen value, its canonical bytes and its MAC."""

import hmac
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import Any, ClassVar, Literal, get_args
from uuid import UUID

import orjson
from uuid_utils.compat import uuid7

Kind = Literal["access", "change"]
ScopeKind = Literal["tenant", "global"]
Ruling = Literal["allowed", "denied", "approval_required"]
"""The result of a decision."""
Outcome = Literal["served", "denied", "failed", "interrupted"]
"""How an access ended."""

SealedEvent = tuple[str, str]
"""An event as it travels through the broker: its canonical bytes as text, and their MAC in hex."""

TravellingSet = tuple[str]
"""A set of excluded tenants as it travels with events that name it: its members. The digest in the
events proves it."""


_DIGEST = re.compile(r"[0-9a-f]{64}")


class EventError(ValueError):
    """Bytes that are not a valid audit event."""


# Canonical bytes have their keys in alphabetical order. orjson keeps the order of these fields.


@dataclass(frozen=True, kw_only=True)
class Actor:
    email: str
    id: UUID
    mfa: bool = False
    """Whether the actor had shown a second factor."""
    roles: tuple[str, ...]
    token_id: UUID | None


@dataclass(frozen=True, kw_only=True)
class Reason:
    code: str
    note: str | None
    ticket: str | None


@dataclass(frozen=True, kw_only=True)
class EventScope:
    kind: ScopeKind
    tenant: str | None
    """The slug that was requested, even where no tenant has it."""
    tenant_id: UUID | None


@dataclass(frozen=True)
class ExcludedTenants:
    """The tenants that an access in global scope left out: a set, which is kept once beside all
    events that name it."""

    count: int
    digest: str
    """The SHA-256 of `members` in hex, which names the set."""
    _members: str = field(default="", repr=False, compare=False)
    # orjson leaves out a field that begins with an underscore: it is no part of the event.

    @property
    def members(self) -> str:
        """The ids in order, with commas between them; empty in an event that was loaded."""
        return self._members


@dataclass(frozen=True)
class EventDecision:
    effect: Ruling
    excluded: ExcludedTenants | None = None
    """`None` where no tenant was left out."""
    grant_ids: tuple[UUID, ...] = ()
    """The grants that the decision rests on; for break-glass, the incident."""
    policy_version: int | None = None
    """The version of the evaluated rules. It grows with each change of one of them."""
    rule_ids: tuple[UUID, ...] = ()


@dataclass(frozen=True)
class InlineEventDecision:
    """A decision as earlier versions recorded it, with the whole set in each event."""

    excluded: ClassVar[None] = None
    effect: Ruling
    excluded_tenant_ids: tuple[UUID, ...] = ()
    grant_ids: tuple[UUID, ...] = ()
    policy_version: int | None = None
    rule_ids: tuple[UUID, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EventRequest:
    id: str
    ip: str | None
    method: str
    path: str
    user_agent: str | None


@dataclass(frozen=True)
class EventOrigin:
    """The journal that first wrote an event, and the event's number there.

    Each journal numbers its events from 1, without a gap.
    """

    journal: UUID
    seq: int


@dataclass(frozen=True, kw_only=True)
class AuditEvent:
    """One access or change, as it will stand in the ledger. The MAC covers every field."""

    actor: Actor
    decision: EventDecision | InlineEventDecision
    http_status: int | None
    """`None` where the request ended without an answer."""
    id: UUID
    kind: Kind
    occurred_at: datetime
    origin: EventOrigin | None = None
    """`None` until a journal has numbered it."""
    outcome: Outcome
    reason: Reason | None
    """`None` only for a change in one's own scope, which needs no reason."""
    repeats: int
    """How many times the request entered the surface, the first time included."""
    request: EventRequest
    rows: int | None
    """How many rows the answer held; `None` where the surface does not count its rows."""
    scope: EventScope
    surface: str


def new_event_id(at: datetime | None = None) -> UUID:
    """Return an id for an event that occurred at a moment, by default now."""
    made = uuid7()
    return made if at is None else UUID(int=_milliseconds(at) << 80 | made.int & _BELOW_MOMENT)


def moment_of(event_id: UUID) -> datetime:
    """Return the moment inside a UUIDv7, to the millisecond: when the event occurred.

    The ledger's partition of an event follows from its moment. Since that follows from the id,
    one id has one place, and the ledger can hold it once only.
    """
    return _EPOCH + timedelta(milliseconds=event_id.int >> 80)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BELOW_MOMENT = 2**80 - 1
"""The bits of a UUIDv7 below its moment."""


def _milliseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)


def event_key(event_id: object, data: bytes) -> str:
    """Return an event's id and the digest of its canonical bytes: what the ledger is asked for.

    The id alone would be satisfied by another event under the same id.
    """
    return f"{event_id}:{sha256(data).hexdigest()}"


def dump_event(event: AuditEvent) -> bytes:
    """Return the event's canonical bytes (RFC 8785).

    All keys are ASCII and sorted, and all numbers are integers. orjson's output has the canonical
    form then.
    """
    return orjson.dumps(event, option=orjson.OPT_UTC_Z)


def load_event(data: bytes) -> AuditEvent:
    """Load an event from its canonical bytes; raises `EventError` for anything else."""
    try:
        event = _event(orjson.loads(data))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise EventError("not an audit event") from error
    if dump_event(event) != data:
        raise EventError("not the canonical form of an audit event")
    return event


def event_mac(data: bytes, key: bytes) -> str:
    """Return the MAC of canonical bytes: keyed BLAKE2b (RFC 7693 §2.5), 32 bytes in hex."""
    # Not `hmac.digest`: it releases the interpreter's lock even for the shortest message.
    return blake2b(data, key=_mac_key(key), digest_size=32).hexdigest()


@lru_cache(16)
def _mac_key(key: bytes) -> bytes:
    """Derive a key that BLAKE2b accepts by its length, and that serves no other purpose."""
    return blake2b(key, person=b"sightline-event").digest()


def has_valid_mac(data: bytes, mac: str, key: bytes) -> bool:
    return mac.isascii() and hmac.compare_digest(event_mac(data, key), mac)


def load_members(members: str) -> tuple[str, tuple[UUID, ...]]:
    """Load a set of excluded tenants from its members; returns its digest and the ids.

    Raises `EventError` for anything but ids in order, without a repetition.
    """
    try:
        ids = tuple(map(UUID, members.split(",")))
    except ValueError as error:
        raise EventError("not a set of tenants") from error
    if ",".join(map(str, sorted(set(ids)))) != members:
        raise EventError("not the canonical form of a set of tenants")
    return sha256(members.encode()).hexdigest(), ids


def _event(raw: Any) -> AuditEvent:
    actor, scope, decision, request = (
        raw[part] for part in ("actor", "scope", "decision", "request")
    )
    return AuditEvent(
        origin=EventOrigin(UUID(_text(raw["origin"]["journal"])), _count(raw["origin"]["seq"])),
        id=UUID(_text(raw["id"])),
        occurred_at=datetime.fromisoformat(_text(raw["occurred_at"])).astimezone(UTC),
        kind=_one_of(Kind, raw["kind"]),
        actor=Actor(
            id=UUID(_text(actor["id"])),
            email=_text(actor["email"]),
            mfa=_flag(actor["mfa"]),
            roles=tuple(map(_text, actor["roles"])),
            token_id=_uuid(actor["token_id"]),
        ),
        surface=_text(raw["surface"]),
        reason=_reason(raw["reason"]),
        scope=EventScope(
            kind=_one_of(ScopeKind, scope["kind"]),
            tenant_id=_uuid(scope["tenant_id"]),
            tenant=_text_or_none(scope["tenant"]),
        ),
        decision=_decision(decision),
        outcome=_one_of(Outcome, raw["outcome"]),
        http_status=_count_or_none(raw["http_status"]),
        rows=_count_or_none(raw["rows"]),
        repeats=_count(raw["repeats"]),
        request=EventRequest(
            id=_text(request["id"]),
            method=_text(request["method"]),
            path=_text(request["path"]),
            ip=_text_or_none(request["ip"]),
            user_agent=_text_or_none(request["user_agent"]),
        ),
    )


def _decision(raw: Any) -> EventDecision | InlineEventDecision:
    shared = {
        "effect": _one_of(Ruling, raw["effect"]),
        "grant_ids": _uuids(raw["grant_ids"]),
        "policy_version": _count_or_none(raw["policy_version"]),
        "rule_ids": _uuids(raw["rule_ids"]),
    }
    if "excluded_tenant_ids" in raw:
        return InlineEventDecision(**shared, excluded_tenant_ids=_uuids(raw["excluded_tenant_ids"]))
    return EventDecision(**shared, excluded=_excluded(raw["excluded"]))


def _excluded(raw: Any) -> ExcludedTenants | None:
    if raw is None:
        return None
    return ExcludedTenants(_count(raw["count"]), _digest(raw["digest"]))


def _reason(raw: Any) -> Reason | None:
    if raw is None:
        return None
    return Reason(
        code=_text(raw["code"]),
        note=_text_or_none(raw["note"]),
        ticket=_text_or_none(raw["ticket"]),
    )


def _text(value: object) -> str:
    """Return a string that PostgreSQL can store.

    A string that it refuses would delay the other events of the delivery.
    """
    if not isinstance(value, str) or "\x00" in value:
        raise EventError("not a text")
    return value


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _count(value: object) -> int:
    """Return an integer that every reader of JSON represents exactly."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise EventError("not a count")
    return value


def _count_or_none(value: object) -> int | None:
    return None if value is None else _count(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise EventError("neither true nor false")
    return value


def _one_of(literal: Any, value: object) -> Any:
    if value not in get_args(literal):
        raise EventError(f"none of {get_args(literal)}")
    return value


def _digest(value: object) -> str:
    if not isinstance(value, str) or _DIGEST.fullmatch(value) is None:
        raise EventError("not a digest")
    return value


def _uuid(value: object) -> UUID | None:
    return None if value is None else UUID(_text(value))


def _uuids(values: Any) -> tuple[UUID, ...]:
    return tuple(UUID(_text(value)) for value in values)
