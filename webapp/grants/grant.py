"""A grant, as a value, and what it covers."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from webapp.rules.engine.evaluate import Candidate, GrantMatch
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.rule import Rule
from webapp.scope.headers import Reason

GrantKind = Literal["approval", "break_glass"]
GrantState = Literal["requested", "approved", "denied", "revoked", "expired"]
Event = Literal["asked", "approved", "denied", "revoked", "expired", "break_glass", "reviewed"]
"""What becomes of one, and is told."""

SortKey = Literal["-requested_at", "requested_at"]

PLATFORM_APPROVERS = ("owner",)
TENANT_APPROVERS = ("admin",)
"""Who approves where a rule does not say."""


@dataclass(frozen=True)
class Approval:
    approver_id: UUID
    email: str
    roles: tuple[str, ...]
    """Those on the platform, and the one in the grant's tenant, when it was given."""
    approved_at: datetime


@dataclass(frozen=True)
class Grant:
    """Leave to access, for a time: asked for and approved, or taken by using break-glass."""

    id: UUID
    kind: GrantKind
    principal_id: UUID
    email: str
    tenant_id: UUID | None
    """`None` for all tenants."""
    tenant: str | None
    surfaces: tuple[str, ...]
    reason: str
    ticket: str | None
    note: str | None
    minutes: int
    rule_ids: tuple[UUID, ...]
    state: GrantState
    requested_at: datetime
    starts_at: datetime | None
    ends_at: datetime
    """Of the request while nobody has decided."""
    closed_at: datetime | None
    closed_by: str | None
    reviewed_at: datetime | None
    reviewed_by: str | None
    review: str | None
    version: int
    approvals: tuple[Approval, ...] = ()
    bypassed_approvals: tuple[UUID, ...] = ()
    """Of break-glass for all tenants: those whose approvals it has done without."""

    @property
    def why(self) -> Reason:
        """The reason that its holder gave."""
        return Reason(self.reason, self.ticket, self.note)  # type: ignore[arg-type]  # from a Reason

    def is_open(self, at: datetime) -> bool:
        return (
            self.state == "approved"
            and self.starts_at is not None
            and self.starts_at <= at < self.ends_at
        )


@dataclass(frozen=True)
class GrantRequest:
    """What somebody asks for."""

    surfaces: tuple[str, ...]
    tenants: tuple[str, ...] | None
    """Slugs, each of which gets a grant of its own; `None` for one of all tenants."""
    reason: Reason
    minutes: int


@dataclass(frozen=True)
class GrantPage:
    items: tuple[Grant, ...]
    next_cursor: str | None
    total: int


@dataclass(frozen=True)
class GrantQuery:
    """What the list is asked for; `cursor` is opaque until `webapp.http.schema` has checked it."""

    limit: int = 50
    cursor: str | None = None
    sort: SortKey = "-requested_at"
    tenant: str | None = None
    state: GrantState | None = None
    kind: GrantKind | None = None
    holder: str | None = None
    """An e-mail address."""


def approvers_of(rule: Rule) -> frozenset[str]:
    """The roles whose approval a rule asks for."""
    named = rule.approver_roles or (PLATFORM_APPROVERS if rule.tenant is None else TENANT_APPROVERS)
    return frozenset(named)


def satisfies(approvals: Iterable[Approval], rule: Rule) -> bool:
    """Whether as many people have approved as the rule asks for, each in a role that it names."""
    wanted = approvers_of(rule)
    return sum(1 for a in approvals if wanted & set(a.roles)) >= rule.min_approvals


def cover(
    grants: Iterable[Grant],
    candidate: Candidate,
    request: AuthorizationRequest,
    target: UUID | None,
    at: datetime,
) -> GrantMatch | None:
    """What covers the rule's approval for an access to `target` (`None`: all tenants): the grant
    that lasts longest."""
    if candidate.rule is None:
        return None
    whose = candidate.tenant_id or target
    fitting = [
        grant
        for grant in grants
        if grant.kind == "approval"
        and grant.is_open(at)
        and grant.tenant_id == whose
        and request.surface in grant.surfaces
        and request.reason == grant.reason
        and grant.ticket in (None, request.ticket)
        and satisfies(grant.approvals, candidate.rule)
    ]
    longest = max(fitting, key=lambda grant: (grant.ends_at, grant.id), default=None)
    return None if longest is None else GrantMatch(longest.id, longest.ends_at)
