"""Grants as values, and which approvals they satisfy."""

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
GrantEvent = Literal["asked", "approved", "denied", "revoked", "expired", "break_glass", "reviewed"]
"""A change to a grant that people are notified of."""

SortKey = Literal["-requested_at", "requested_at"]

PLATFORM_APPROVERS = ("owner",)
TENANT_APPROVERS = ("admin",)
"""The roles that approve if the rule names none."""


@dataclass(frozen=True)
class Approval:
    approver_id: UUID
    email: str
    roles: tuple[str, ...]
    """The approver's platform roles and their role in the grant's tenant, at that time."""
    approved_at: datetime


@dataclass(frozen=True)
class Grant:
    """Permission to access for a limited time, by approval or by break-glass."""

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
    """When the grant ends. While it waits for a decision: when the request lapses."""
    closed_at: datetime | None
    closed_by: str | None
    reviewed_at: datetime | None
    reviewed_by: str | None
    review: str | None
    version: int
    approvals: tuple[Approval, ...] = ()
    bypassed_approvals: tuple[UUID, ...] = ()
    """Of a break-glass incident at all tenants: the tenants whose approvals it bypasses."""

    @property
    def why(self) -> Reason:
        """The reason that the holder gave."""
        return Reason(self.reason, self.ticket, self.note)  # type: ignore[arg-type]  # from a Reason

    def is_open(self, at: datetime) -> bool:
        return (
            self.state == "approved"
            and self.starts_at is not None
            and self.starts_at <= at < self.ends_at
        )


@dataclass(frozen=True)
class GrantRequest:
    """A request for approvals, as a client sends it."""

    surfaces: tuple[str, ...]
    tenants: tuple[str, ...] | None
    """Slugs; each tenant gets a grant of its own. `None` for one grant at all tenants."""
    reason: Reason
    minutes: int


@dataclass(frozen=True)
class GrantPage:
    items: tuple[Grant, ...]
    next_cursor: str | None
    total: int | None
    total_is_at_least: int | None = None


@dataclass(frozen=True)
class GrantQuery:
    """Filters, order and page of a list of grants.

    `cursor` is opaque until `webapp.http.schema` has checked it.
    """

    limit: int = 50
    cursor: str | None = None
    sort: SortKey = "-requested_at"
    tenant: str | None = None
    state: GrantState | None = None
    kind: GrantKind | None = None
    holder: str | None = None
    """An e-mail address."""


def approvers_of(rule: Rule) -> frozenset[str]:
    """The roles whose approval a rule requires."""
    named = rule.approver_roles or (PLATFORM_APPROVERS if rule.tenant is None else TENANT_APPROVERS)
    return frozenset(named)


def satisfies(approvals: Iterable[Approval], rule: Rule) -> bool:
    """Whether enough people have approved, each in a role that the rule names."""
    approvers = approvers_of(rule)
    return sum(1 for a in approvals if approvers & set(a.roles)) >= rule.min_approvals


def find_grant(
    grants: Iterable[Grant],
    candidate: Candidate,
    request: AuthorizationRequest,
    target: UUID | None,
    at: datetime,
) -> GrantMatch | None:
    """The grant that gives an access the approval that a rule requires, if there is one.

    `target` is the tenant accessed; `None` for all tenants. Of several grants the one that ends
    last is returned.
    """
    if candidate.rule is None:
        return None
    tenant_id = candidate.tenant_id or target
    matching = [
        grant
        for grant in grants
        if grant.kind == "approval"
        and grant.is_open(at)
        and grant.tenant_id == tenant_id
        and request.surface in grant.surfaces
        and request.reason == grant.reason
        and grant.ticket in (None, request.ticket)
        and satisfies(grant.approvals, candidate.rule)
    ]
    longest = max(matching, key=lambda grant: (grant.ends_at, grant.id), default=None)
    return None if longest is None else GrantMatch(longest.id, longest.ends_at)
