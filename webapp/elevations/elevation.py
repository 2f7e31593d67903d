"""Elevations as values: what another service asks about a person, and the answer."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from webapp.audit.event import Ruling
from webapp.scope.decision import NamedRule
from webapp.scope.headers import Reason


@dataclass(frozen=True)
class Person:
    """The person who wants access, as the service describes them.

    The service does not say which roles they hold: Sightline knows.
    """

    email: str
    mfa: bool
    """Whether the person has shown a second factor to the service."""


@dataclass(frozen=True)
class ElevationRequest:
    principal: Person
    surface: str
    tenant: str | None
    """A slug; `None` for all tenants."""
    reason: Reason
    ip: str | None
    """The person's IP address; `None` if it is unknown."""


@dataclass(frozen=True)
class ExcludedTenant:
    id: UUID
    slug: str


@dataclass(frozen=True)
class Excluded:
    """The tenants that an access to all tenants must leave out."""

    count: int
    tenants: tuple[ExcludedTenant, ...]


@dataclass(frozen=True)
class Elevation:
    decision: Ruling
    elevated: bool
    """False in the person's own tenant, where there is nothing to decide."""
    explanation: str
    named: tuple[NamedRule, ...]
    """The rules that the explanation names."""
    rules: tuple[UUID, ...]
    """The rules that decided."""
    excluded: Excluded
    grants: tuple[UUID, ...]
    until: datetime | None
    """When the permission ends. `None` where nothing is allowed."""
    minutes: int | None
    """The whole minutes from the answer until then."""
    ask: str | None
    """The path at which to ask for an approval, if one is needed."""
    receipt: UUID
    """The audit event's id."""
    policy_version: int | None


@dataclass(frozen=True)
class StoredAnswer:
    """The answer to a question, stored under the service's key for it."""

    body: bytes
    """The elevation as JSON: the same bytes each time."""
    replayed: bool
    """Whether the answer was stored by an earlier request."""
