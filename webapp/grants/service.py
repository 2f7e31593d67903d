"""Grants: list them, and decide, revoke and save them.

Functions here run in the session's scope and do not commit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Uuid, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from uuid_utils.compat import uuid7

from webapp.caching import invalidate
from webapp.db.scopes import PrincipalScope, Scope, TenantScope
from webapp.extensions import db
from webapp.grants.active import grant_of, holder_tag, load_approvals, load_grants
from webapp.grants.grant import (
    PLATFORM_APPROVERS,
    TENANT_APPROVERS,
    Approval,
    Grant,
    GrantEvent,
    GrantPage,
    GrantQuery,
    approvers_of,
    satisfies,
)
from webapp.grants.models import GrantApprovalRow, GrantRow
from webapp.grants.notices import outbox
from webapp.http.errors import Conflict, NotFound
from webapp.http.pagination import WHOLE_LIST, Run, listing_of, read_page
from webapp.identity.models import Tenant
from webapp.identity.principal import Principal
from webapp.rules.engine.evaluate import Candidate
from webapp.rules.models import RuleRow
from webapp.rules.rule import Rule
from webapp.rules.rule_sets import load, load_under_locks
from webapp.scope.decision import (
    ALL_TENANTS_TARGET,
    Allowed,
    Denied,
    RulesOutcome,
    Target,
    TenantTarget,
)

UNKNOWN = "There is no such grant."


@dataclass(frozen=True)
class PendingDecision:
    """A grant to be decided, and the current rules that require an approval for it."""

    grant: Grant
    approval_rules: tuple[Rule, ...]

    @property
    def target(self) -> Target:
        grant = self.grant
        if grant.tenant is None:
            return ALL_TENANTS_TARGET
        return TenantTarget(grant.tenant_id, grant.tenant)

    @property
    def approvers(self) -> frozenset[str]:
        """The roles that may decide; the default roles, if no rule requires an approval now."""
        named = frozenset[str]().union(*map(approvers_of, self.approval_rules))
        return named or frozenset((*PLATFORM_APPROVERS, *TENANT_APPROVERS))


def list_grants(scope: Scope, query: GrantQuery) -> GrantPage:
    """List one page of the grants in the scope. Raises `Invalid` for a wrong cursor."""
    page = read_page(
        db.session,
        select(GrantRow, Tenant.slug).outerjoin(Tenant, Tenant.id == GrantRow.tenant_id),
        GrantRow,
        _filters(query),
        sort=query.sort,
        limit=query.limit,
        cursor=query.cursor,
        listing=listing_of("grants", scope, replace(query, limit=0, cursor=None)),
        runs=_runs(scope),
    )
    approvals = load_approvals(row.id for row, _, _ in page.rows)
    return GrantPage(
        items=tuple(grant_of(row, tenant, approvals[row.id]) for row, tenant, _ in page.rows),
        next_cursor=page.next_cursor,
        total=page.total,
        total_is_at_least=page.total_is_at_least,
    )


def read_pending(grant_id: UUID) -> PendingDecision:
    """Read a grant that the scope sees, and its rules as they are now. Raises `NotFound`."""
    grants = load_grants(GrantRow.id == grant_id)
    if not grants:
        raise NotFound(UNKNOWN)
    return _pending(grants[0], load(RuleRow.id.in_(grants[0].rule_ids)))


def lock_pending(grant_id: UUID) -> PendingDecision:
    """Lock a grant that the scope sees until the transaction ends.

    Its rules are those of whichever owner, as they are once the lock is there. Raises `NotFound`.
    """
    row, tenant = _lock(grant_id)
    grant = grant_of(row, tenant, load_approvals([row.id])[row.id])
    return _pending(grant, load_under_locks(RuleRow.id.in_(grant.rule_ids)))


def _pending(grant: Grant, candidates: Iterable[Candidate]) -> PendingDecision:
    rules = (candidate.rule for candidate in candidates)
    return PendingDecision(grant, tuple(r for r in rules if r and r.effect == "require_approval"))


def may_decide(principal: Principal, pending: PendingDecision) -> Allowed | Denied:
    """Whether somebody may approve or deny a grant. Nobody decides their own."""
    if principal.id == pending.grant.principal_id:
        return Denied("Somebody else must decide your request.")
    if not pending.approvers & set(_roles(principal, pending.grant)):
        return Denied("None of your roles may decide this request.")
    return _allowed(pending.grant)


def may_revoke(principal: Principal, pending: PendingDecision) -> Allowed | Denied:
    """Whether somebody may end a grant early.

    Its holder may, whoever may decide it, the tenant's admins and the platform's owners.
    """
    revokers = pending.approvers | {*PLATFORM_APPROVERS, *TENANT_APPROVERS}
    is_holder = principal.id == pending.grant.principal_id
    if is_holder or revokers & set(_roles(principal, pending.grant)):
        return _allowed(pending.grant)
    return Denied("None of your roles may revoke this grant.")


def approve(principal: Principal, pending: PendingDecision) -> Grant:
    """Approve a request. The grant begins once every rule has enough approvals.

    Raises `Conflict` if the request is decided, or if the same person approves it twice.
    """
    row, tenant, now = lock(pending.grant.id, "requested")
    approvals = load_approvals([row.id])[row.id]
    if any(approval.approver_id == principal.id for approval in approvals):
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
    approvals = [*approvals, approval]
    if not all(satisfies(approvals, rule) for rule in pending.approval_rules):
        return save(row, tenant, approvals)
    row.state, row.starts_at = "approved", now
    row.ends_at = now + timedelta(minutes=row.minutes)
    grant = save(row, tenant, approvals)
    outbox.enqueue("approved", grant)
    return grant


def deny(principal: Principal, pending: PendingDecision) -> Grant:
    """Deny a request, which ends it. Raises `Conflict` if it is decided."""
    row, tenant, now = lock(pending.grant.id, "requested")
    row.state, row.closed_at, row.closed_by = "denied", now, principal.email
    grant = save(row, tenant)
    outbox.enqueue("denied", grant)
    return grant


def revoke(grant_id: UUID, by: str) -> Grant:
    """End a request or a grant: it counts no more from the next HTTP request on.

    Raises `Conflict` if it is over.
    """
    row, tenant, now = lock(grant_id, "requested", "approved")
    row.state, row.closed_at, row.closed_by = "revoked", now, by
    grant = save(row, tenant)
    outbox.enqueue("revoked", grant)
    return grant


def lock(grant_id: UUID, *states: str) -> tuple[GrantRow, str | None, datetime]:
    """Lock a grant until the transaction ends; return its row, its tenant's slug and the time.

    Raises `NotFound`, and `Conflict` if the grant is over or in none of these states.
    """
    row, tenant = _lock(grant_id)
    now = datetime.now(UTC)
    if row.state not in states:
        raise Conflict(f"The grant is {row.state} already.")
    if row.ends_at <= now:
        raise Conflict("The grant's time is over.")
    return row, tenant, now


def _lock(grant_id: UUID) -> tuple[GrantRow, str | None]:
    statement = (
        select(GrantRow, Tenant.slug)
        .outerjoin(Tenant, Tenant.id == GrantRow.tenant_id)
        .where(GrantRow.id == grant_id)
        .with_for_update(of=GrantRow)
        .execution_options(populate_existing=True)
    )
    found = db.session.execute(statement).one_or_none()
    if found is None:
        raise NotFound(UNKNOWN)
    row, tenant = found
    return row, tenant


def save(row: GrantRow, tenant: str | None, approvals: Iterable[Approval] | None = None) -> Grant:
    """Write a changed grant to the database, and invalidate cached decisions of its holder."""
    row.version += 1
    db.session.flush()
    invalidate(holder_tag(row.principal_id))
    if approvals is None:
        approvals = load_approvals([row.id])[row.id]
    return grant_of(row, tenant, approvals)


def announce(event: GrantEvent, row: GrantRow, tenants: Iterable[UUID] = ()) -> Grant:
    """Write a changed incident to the database, and enqueue a notice of it.

    The notice goes to the admins of `tenants` too. Cached decisions of the holder are invalidated.
    """
    db.session.flush()
    (grant,) = load_grants(GrantRow.id == row.id)
    outbox.enqueue(event, grant, tenants)
    invalidate(holder_tag(row.principal_id))
    return grant


def _allowed(grant: Grant) -> Allowed:
    """The decision to allow a change to the grant, whose id goes into the audit event."""
    return Allowed(RulesOutcome("", grants=(grant.id,)))


def _roles(principal: Principal, grant: Grant) -> tuple[str, ...]:
    """The principal's platform roles, and their role in the grant's tenant."""
    own = {m.role for m in principal.memberships if m.tenant_id == grant.tenant_id}
    return (*sorted(principal.platform_roles), *sorted(own))


def _runs(scope: Scope) -> Sequence[Run]:
    """The runs of a list, in the scope of what concerns somebody: the grants that they hold, and
    those of each tenant whose admin they are."""
    if isinstance(scope, TenantScope):
        return (Run((GrantRow.tenant_id == scope.tenant_id,)),)
    if not isinstance(scope, PrincipalScope):
        return WHOLE_LIST
    administered = cast(sorted(scope.administers), ARRAY(Uuid))
    tenants = select(func.unnest(administered).label("id")).subquery("administered")
    holds = GrantRow.principal_id == scope.principal_id
    return (Run((holds,)), Run((GrantRow.tenant_id == tenants.c.id, ~holds), each=tenants))


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
