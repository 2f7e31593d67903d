"""The recipients of a notice, by the roles and rules at the time it is addressed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from sqlalchemy import or_, select, tuple_

from webapp.extensions import db
from webapp.grants.grant import (
    PLATFORM_APPROVERS,
    TENANT_APPROVERS,
    Grant,
    GrantEvent,
    approvers_of,
)
from webapp.identity.models import MembershipRow, PlatformRoleRow, PrincipalRow
from webapp.identity.principal import PLATFORM_ROLES, TENANT_ROLES
from webapp.rules.models import RuleRow
from webapp.rules.rule_sets import load


def find_recipients(event: GrantEvent, grant: Grant, tenants: Iterable[UUID]) -> list[str]:
    """Find the recipients' e-mail addresses.

    For break-glass at all tenants, the admins of `tenants` are among them.
    """
    return _emails(_audience(event, grant, tenants))


def find_admins(tenants: Iterable[UUID], people: Iterable[UUID]) -> list[str]:
    """Find the addresses of the tenants' admins, and of some people beside them."""
    admins = frozenset((tenant, role) for tenant in tenants for role in TENANT_APPROVERS)
    return _emails(_Audience(frozenset(people), members=admins))


@dataclass(frozen=True)
class _Audience:
    """The principals that a notice concerns, by id and by role."""

    people: frozenset[UUID] = frozenset()
    staff: frozenset[str] = frozenset()
    """Platform roles."""
    members: frozenset[tuple[UUID, str]] = frozenset()
    """Pairs of a tenant and a role there."""
    excluded: UUID | None = None
    """A principal who gets no notice."""


def _audience(event: GrantEvent, grant: Grant, tenants: Iterable[UUID]) -> _Audience:
    match event:
        case "asked":
            roles = _approvers(grant)
            in_tenant = roles & set(TENANT_ROLES) if grant.tenant_id else ()
            return _Audience(
                staff=roles & set(PLATFORM_ROLES),
                members=frozenset((cast(UUID, grant.tenant_id), role) for role in in_tenant),
                excluded=grant.principal_id,
            )
        case "break_glass":
            concerned = (*tenants, *([grant.tenant_id] if grant.tenant_id else ()))
            return _Audience(
                staff=frozenset(PLATFORM_APPROVERS),
                members=frozenset(
                    (tenant, role) for tenant in concerned for role in TENANT_APPROVERS
                ),
            )
        case "reviewed":
            return _Audience(frozenset({grant.principal_id}), frozenset(PLATFORM_APPROVERS))
    return _Audience(frozenset({grant.principal_id}))


def _approvers(grant: Grant) -> frozenset[str]:
    """The roles that may approve, by the rules that require the approval, as they are now."""
    candidates = load(RuleRow.id.in_(grant.rule_ids))
    named = {role for c in candidates if c.rule for role in approvers_of(c.rule)}
    return frozenset(named or (TENANT_APPROVERS if grant.tenant_id else PLATFORM_APPROVERS))


def _emails(audience: _Audience) -> list[str]:
    staff = select(PlatformRoleRow.principal_id).where(PlatformRoleRow.role.in_(audience.staff))
    role_in = tuple_(MembershipRow.tenant_id, MembershipRow.role)
    members = select(MembershipRow.principal_id).where(role_in.in_(audience.members))
    is_concerned = or_(*(PrincipalRow.id.in_(who) for who in (audience.people, staff, members)))
    emails = select(PrincipalRow.email).where(
        is_concerned,
        PrincipalRow.id.is_distinct_from(audience.excluded),
        PrincipalRow.ended_at.is_(None),
    )
    return list(db.session.scalars(emails.order_by(PrincipalRow.email)))
