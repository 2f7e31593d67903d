"""The audit event: a frozen value and its canonical bytes."""

import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Annotated, Literal
from uuid import UUID

import msgspec
import orjson
from uuid_utils.compat import uuid7

Kind = Literal["access", "change"]
ScopeKind = Literal["tenant", "global"]
Ruling = Literal["allowed", "denied", "approval_required"]
"""The result of a decision."""
Outcome = Literal["served", "denied", "failed", "interrupted"]
"""How an access ended."""

TravellingEvent = tuple[str, str]
"""An event as it travels through the broker: its canonical bytes as text, and the signature."""

TravellingSet = tuple[str]
"""A set of excluded tenants as it travels with events that name it: its members. The digest in the
events proves it."""


Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
"""An integer that every reader of JSON represents exactly."""

Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""A SHA-256 in hex."""

Salt = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{21}[AQgw]\Z")]
"""Sixteen random bytes in base64url."""

NOBODY = UUID(int=0)
"""The id of an actor that is no principal: an operator, or Sightline itself."""


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
    """The actor's own token; `None` where a service asked."""


@dataclass(frozen=True, kw_only=True)
class Via:
    """The service that asked on the actor's behalf, about data of its own."""

    email: str
    id: UUID
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

    count: Count
    digest: Digest
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
    policy_version: Count | None = None
    """The version of the evaluated rules. It grows with each change of one of them."""
    rule_ids: tuple[UUID, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EventRequest:
    id: str
    ip: str | None
    method: str
    path: str
    """With `%` and two digits for each byte that is not printable, and for `%`; so is the next."""
    user_agent: str | None
    x_request_id: str | None = None
    """The id that the client gave its request, if it gave one."""


@dataclass(frozen=True)
class EventOrigin:
    """The journal that first wrote an event, and the event's number there.

    Each journal numbers its events from 1, without a gap.
    """

    journal: UUID
    seq: Count


@dataclass(frozen=True, kw_only=True)
class AuditEvent:
    """One access or change, as it will stand in the ledger. Its signature covers every field."""

    actor: Actor
    decision: EventDecision
    http_status: Count | None
    """`None` where the request ended without an answer."""
    id: UUID
    kind: Kind
    occurred_at: datetime
    origin: EventOrigin | None = None
    """`None` until a journal has numbered it."""
    outcome: Outcome
    reason: Reason | None
    """`None` only for a change or an export in one's own scope, which needs no reason."""
    repeats: Count
    """How many times the request entered the surface, the first time included."""
    request: EventRequest
    rows: Count | None
    """How many rows the answer held; `None` where the surface does not count its rows."""
    salt: Salt
    """Keeps what is withheld from being guessed by its digest. No list shows it: who is shown a
    part of an event could try what the rest may be."""
    scope: EventScope
    surface: str
    terms: dict[str, str] | None = None
    """What the request looked for: the parameters of its query, sorted, each value bounded."""
    via: Via | None = None
    """The service that asked on the actor's behalf."""

    @property
    def who(self) -> str:
        """The actor's address, and the service's if one asked, for people to read."""
        return by_way_of(self.actor.email, self.via.email if self.via else None)


def by_way_of(actor: str, via: str | None) -> str:
    """Name an actor and the service that asked, if one did, for people to read."""
    return actor if via is None else f"{actor} via {via}"


def new_event_id(at: datetime | None = None) -> UUID:
    """Return an id for an event that occurred at a moment, by default now."""
    made = uuid7()
    return made if at is None else UUID(int=_milliseconds(at) << 80 | made.int & _BELOW_MOMENT)


def new_salt() -> Salt:
    return secrets.token_urlsafe(16)


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


_DECODER = msgspec.json.Decoder(AuditEvent)

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def load_event(data: bytes) -> AuditEvent:
    """Load an event from its canonical bytes; raises `EventError` for anything else.

    Texts with a NUL are refused, since PostgreSQL cannot store them: one would delay the other
    events of its delivery.
    """
    try:
        event = _DECODER.decode(data)
        # The first shows that every field is there and no other; it has them in the given order.
        forms = {dump_event(event), orjson.dumps(orjson.loads(data), option=orjson.OPT_SORT_KEYS)}
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise EventError("not an audit event") from error
    if forms != {data}:
        raise EventError("not the canonical form of an audit event")
    if event.occurred_at.utcoffset() != timedelta(0):
        raise EventError("not a moment in UTC")
    if event.origin is None:
        raise EventError("no number of a journal")
    if b"\\u0000" in data and _NUL.search(data):
        raise EventError("a text with a NUL")
    return event


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
