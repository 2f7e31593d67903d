"""Grants: lists, and who may decide them, and what is decided.

Everything runs in the scope that the session is in; nothing here commits.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, select
from uuid_utils.compat import uuid7

from webapp.caching import invalidate
from webapp.db.scopes import Scope
from webapp.extensions import db
from webapp.grants.active import grant_of, holder_tag, load_approvals, load_grants
from webapp.grants.grant import (
    PLATFORM_APPROVERS,
    TENANT_APPROVERS,
    Approval,
    Event,
    Grant,
    GrantPage,
    GrantQuery,
    approvers_of,
    satisfies,
)
from webapp.grants.models import GrantApprovalRow, GrantRow
from webapp.grants.notices import outbox as notices
from webapp.http.errors import Conflict, NotFound
from webapp.http.pagination import listing_of, read_page
from webapp.identity.models import Tenant
from webapp.identity.principal import Principal
from webapp.rules.models import RuleRow
from webapp.rules.rule import Rule
from webapp.rules.rule_sets import load
from webapp.scope.decision import (
    ALL_TENANTS_TARGET,
    Allowed,
    Denied,
    RulesOutcome,
    Target,
    TenantTarget,
)


@dataclass(frozen=True)
class PendingDecision:
    """A grant to be decided, and the rules that still want an approval for what it grants."""

    grant: Grant
    asking: tuple[Rule, ...]

    @property
    def target(self) -> Target:
        grant = self.grant
        if grant.tenant is None:
            return ALL_TENANTS_TARGET
        return TenantTarget(grant.tenant_id, grant.tenant)

    @property
    def approvers(self) -> frozenset[str]:
        """The roles that may decide; where no rule asks any more, those of whom it concerns."""
        named = frozenset[str]().union(*map(approvers_of, self.asking))
        return named or frozenset((*PLATFORM_APPROVERS, *TENANT_APPROVERS))


def list_grants(scope: Scope, query: GrantQuery) -> GrantPage:
    """The page of the scope's grants that `query` asks for; raises `Invalid` for its cursor."""
    page = read_page(
        db.session,
        select(GrantRow, Tenant.slug).outerjoin(Tenant, Tenant.id == GrantRow.tenant_id),
        GrantRow,
        _filters(query),
        sort=query.sort,
        limit=query.limit,
        cursor=query.cursor,
        listing=listing_of("grants", scope, replace(query, limit=0, cursor=None)),
    )
    approvals = load_approvals(row.id for row, _, _ in page.rows)
    return GrantPage(
        items=tuple(grant_of(row, tenant, approvals[row.id]) for row, tenant, _ in page.rows),
        next_cursor=page.next_cursor,
        total=page.total,
    )


def get_grant(grant_id: UUID) -> Grant:
    found = load_grants(GrantRow.id == grant_id)
    if not found:
        raise NotFound("There is no such grant.")
    return found[0]


def read_pending(grant_id: UUID) -> PendingDecision:
    """A grant that the scope sees, and its rules as they are now, whoever's they are."""
    grant = get_grant(grant_id)
    rules = [candidate.rule for candidate in load(RuleRow.id.in_(grant.rule_ids))]
    return PendingDecision(grant, tuple(r for r in rules if r and r.effect == "require_approval"))


def may_decide(principal: Principal, pending: PendingDecision) -> Allowed | Denied:
    """Whether somebody may approve or deny it: never one's own."""
    if principal.id == pending.grant.principal_id:
        return Denied("Somebody else decides about what you have asked for.")
    if not pending.approvers & set(_roles(principal, pending.grant)):
        return Denied("None of your roles may decide this.")
    return _concerning(pending.grant)


def may_revoke(principal: Principal, pending: PendingDecision) -> Allowed | Denied:
    """Whether somebody may end it early: who may decide it, those whose tenant it is of, the
    platform's owners, and who holds it."""
    ending = pending.approvers | {*PLATFORM_APPROVERS, *TENANT_APPROVERS}
    own = principal.id == pending.grant.principal_id
    if own or ending & set(_roles(principal, pending.grant)):
        return _concerning(pending.grant)
    return Denied("None of your roles may end this.")


def approve(principal: Principal, pending: PendingDecision) -> Grant:
    """Say yes; with as many as each rule wants, the grant begins now.

    Raises `Conflict` for one that is decided, and for a second yes of the same person.
    """
    row, tenant, now = lock(pending.grant.id, "requested")
    given = load_approvals([row.id])[row.id]
    if any(approval.approver_id == principal.id for approval in given):
        raise Conflict("You have approved it already.")
    approval = Approval(principal.id, principal.email, _roles(principal, pending.grant), now)
    db.session.add(
        GrantApprovalRow(
            id=uuid7(),
            grant_id=row.id,
            tenant_id=row.tenant_id,
            approver_id=approval.approver_id,
            approver_email=approval.email,
            roles=list(approval.roles),
            approved_at=approval.approved_at,
        )
    )
    given = [*given, approval]
    if not all(satisfies(given, rule) for rule in pending.asking):
        return keep(row, tenant, given)
    row.state, row.starts_at = "approved", now
    row.ends_at = now + timedelta(minutes=row.minutes)
    grant = keep(row, tenant, given)
    notices.enqueue("approved", grant)
    return grant


def deny(principal: Principal, pending: PendingDecision) -> Grant:
    """Say no, which ends it. Raises `Conflict` for one that is decided."""
    row, tenant, now = lock(pending.grant.id, "requested")
    row.state, row.closed_at, row.closed_by = "denied", now, principal.email
    grant = keep(row, tenant)
    notices.enqueue("denied", grant)
    return grant


def revoke(grant_id: UUID, by: str) -> Grant:
    """End a request or a grant, from the next request on. Raises `Conflict` for one that is
    over."""
    row, tenant, now = lock(grant_id, "requested", "approved")
    row.state, row.closed_at, row.closed_by = "revoked", now, by
    grant = keep(row, tenant)
    notices.enqueue("revoked", grant)
    return grant


def lock(grant_id: UUID, *states: str) -> tuple[GrantRow, str | None, datetime]:
    """A grant that nobody else changes until the transaction ends, with its tenant's slug, now.

    Raises `Conflict` unless it is in one of the states, and not over.
    """
    statement = (
        select(GrantRow, Tenant.slug)
        .outerjoin(Tenant, Tenant.id == GrantRow.tenant_id)
        .where(GrantRow.id == grant_id)
        .with_for_update(of=GrantRow)
        .execution_options(populate_existing=True)
    )
    found = db.session.execute(statement).one_or_none()
    if found is None:
        raise NotFound("There is no such grant.")
    row, tenant = found
    now = datetime.now(UTC)
    if row.state not in states:
        raise Conflict(f"It is {row.state} already.")
    if row.ends_at <= now:
        raise Conflict("Its time is over.")
    return row, tenant, now


def keep(row: GrantRow, tenant: str | None, given: Iterable[Approval] | None = None) -> Grant:
    """Write a change down, and end the decisions that its holder got before it."""
    row.version += 1
    db.session.flush()
    invalidate(holder_tag(row.principal_id))
    return grant_of(row, tenant, load_approvals([row.id])[row.id] if given is None else given)


def changed(event: Event, row: GrantRow, tenants: Iterable[UUID] = ()) -> Grant:
    """Write a change down, and have it told."""
    db.session.flush()
    (grant,) = load_grants(GrantRow.id == row.id)
    notices.enqueue(event, grant, tenants)
    invalidate(holder_tag(row.principal_id))
    return grant


def _concerning(grant: Grant) -> Allowed:
    """The decision that lets a change of the grant be, and names the grant in its record."""
    return Allowed(RulesOutcome("", grants=(grant.id,)))


def _roles(principal: Principal, grant: Grant) -> tuple[str, ...]:
    """Those that count for the grant: the platform's, and the one in its tenant."""
    own = {m.role for m in principal.memberships if m.tenant_id == grant.tenant_id}
    return (*sorted(principal.platform_roles), *sorted(own))


def _filters(query: GrantQuery) -> Iterator[ColumnElement[bool]]:
    exact = {
        GrantRow.state: query.state,
        GrantRow.kind: query.kind,
        GrantRow.principal_email: query.holder,
    }
    yield from (column == value for column, value in exact.items() if value is not None)
    if query.tenant is not None:
        of_slug = select(Tenant.id).where(Tenant.slug == query.tenant).scalar_subquery()
        yield GrantRow.tenant_id == of_slug
