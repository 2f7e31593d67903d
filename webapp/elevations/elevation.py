"""What another service asks of a person, and what it is told, as values."""

from dataclasses import dataclass
from uuid import UUID

from webapp.audit.event import Ruling
from webapp.scope.headers import Reason


@dataclass(frozen=True)
class Person:
    """Whoever wants to access, as the service says. What they may, it is not asked."""

    email: str
    mfa: bool
    """Whether they have shown a second factor there."""


@dataclass(frozen=True)
class ElevationRequest:
    principal: Person
    surface: str
    tenant: str | None
    """A slug; `None` for all tenants."""
    reason: Reason
    ip: str | None
    """Where the person is."""


@dataclass(frozen=True)
class ExcludedTenant:
    id: UUID
    slug: str


@dataclass(frozen=True)
class Excluded:
    """The tenants that an access to all of them has to leave out."""

    count: int
    tenants: tuple[ExcludedTenant, ...]


@dataclass(frozen=True)
class Elevation:
    decision: Ruling
    elevated: bool
    """False in the person's own tenant, where there is nothing to decide or to record."""
    explanation: str
    rules: tuple[UUID, ...]
    """Those that made it so."""
    excluded: Excluded
    grants: tuple[UUID, ...]
    minutes: int | None
    """For how long at most, where the rules say."""
    ask: str | None
    """Where to ask for an approval, if one is needed."""
    receipt: UUID | None
    """The audit event's id."""
    policy_version: int | None


@dataclass(frozen=True)
class Answer:
    body: bytes
    """The elevation as JSON: the same bytes each time."""
    replayed: bool
    """Whether it was answered before."""
