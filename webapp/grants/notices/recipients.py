"""Whom a notice is for, as things stand when it is addressed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from sqlalchemy import or_, select, tuple_

from webapp.extensions import db
from webapp.grants.grant import PLATFORM_APPROVERS, TENANT_APPROVERS, Event, Grant, approvers_of
from webapp.identity.models import MembershipRow, PlatformRoleRow, PrincipalRow
from webapp.identity.principal import PLATFORM_ROLES, TENANT_ROLES
from webapp.rules import rule_sets as sets
from webapp.rules.models import RuleRow


def find_recipients(event: Event, grant: Grant, tenants: Iterable[UUID]) -> list[str]:
    """E-mail addresses. Of break-glass for all tenants, the admins of `tenants` are told."""
    return _emails(_audience(event, grant, tenants))


@dataclass(frozen=True)
class _Audience:
    people: frozenset[UUID] = frozenset()
    staff: frozenset[str] = frozenset()
    """Roles on the platform."""
    members: frozenset[tuple[UUID, str]] = frozenset()
    """Tenants, and a role in each."""
    but: UUID | None = None


def _audience(event: Event, grant: Grant, tenants: Iterable[UUID]) -> _Audience:
    match event:
        case "asked":
            roles = _approvers(grant)
            inside = roles & set(TENANT_ROLES) if grant.tenant_id else ()
            return _Audience(
                staff=roles & set(PLATFORM_ROLES),
                members=frozenset((cast(UUID, grant.tenant_id), role) for role in inside),
                but=grant.principal_id,
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
    """The roles that the rules name which ask for the approval, as they are now."""
    asking = sets.load(RuleRow.id.in_(grant.rule_ids))
    named = {role for c in asking if c.rule for role in approvers_of(c.rule)}
    return frozenset(named or (TENANT_APPROVERS if grant.tenant_id else PLATFORM_APPROVERS))


def _emails(audience: _Audience) -> list[str]:
    staff = select(PlatformRoleRow.principal_id).where(PlatformRoleRow.role.in_(audience.staff))
    role_in = tuple_(MembershipRow.tenant_id, MembershipRow.role)
    members = select(MembershipRow.principal_id).where(role_in.in_(audience.members))
    told = or_(*(PrincipalRow.id.in_(who) for who in (audience.people, staff, members)))
    found = select(PrincipalRow.email).where(
        told, PrincipalRow.id.is_distinct_from(audience.but), PrincipalRow.ended_at.is_(None)
    )
    return list(db.session.scalars(found.order_by(PrincipalRow.email)))
