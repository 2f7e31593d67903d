"""May this principal use this surface in the scope it asks for? Values in, a decision out.

For now: one's own tenant by one's role in it; a foreign tenant, or all of them, only by a platform
role. Nothing said is a denial.
"""

from dataclasses import dataclass
from uuid import UUID

from webapp.identity.principal import PlatformRole, Principal, TenantRole
from webapp.scope.reason import Reason


@dataclass(frozen=True)
class Surface:
    """A named place where rows are looked at or changed, and the roles that may use it."""

    name: str
    tenant_roles: frozenset[TenantRole]
    platform_roles: frozenset[PlatformRole]
    """The roles that may elevate to it; empty for a surface that cannot be elevated."""
    changes: bool = False
    """A change is recorded in one's own scope too."""
    caches: tuple[str, ...] = ()
    """The kinds of rows that its cached answers come from (prefixes of cache tags)."""
    open_because: str | None = None
    """A surface is closed: what cannot be recorded is not shown. Only one that says here why it
    may be open answers nevertheless, raises an alarm, and is recorded as soon as that is possible.
    Never one that changes something."""


@dataclass(frozen=True)
class TenantTarget:
    tenant_id: UUID | None
    """`None` for a slug that no tenant has."""
    slug: str


@dataclass(frozen=True)
class GlobalTarget:
    pass


Target = TenantTarget | GlobalTarget


@dataclass(frozen=True)
class Allowed:
    elevated: bool


@dataclass(frozen=True)
class Denied:
    """`rules` are the ids of the rules that said so; none when nothing allowed it."""

    elevated: bool
    detail: str
    rules: tuple[UUID, ...] = ()


@dataclass(frozen=True)
class NeedsReason:
    """Elevation would be decided, but nobody said why it is wanted."""


@dataclass(frozen=True)
class NeedsApproval:
    detail: str
    rules: tuple[UUID, ...] = ()


Decision = Allowed | Denied | NeedsReason | NeedsApproval


def decide(
    principal: Principal, surface: Surface, target: Target, reason: Reason | None
) -> Decision:
    if isinstance(target, TenantTarget):
        membership = principal.membership(target.slug)
        if membership is not None:
            if membership.role in surface.tenant_roles:
                return Allowed(elevated=False)
            return Denied(elevated=False, detail=f"The role {membership.role} may not do this.")
    if reason is None:
        return NeedsReason()
    if principal.platform_roles & surface.platform_roles:
        return Allowed(elevated=True)
    return Denied(elevated=True, detail="None of your roles allows this look beyond your tenant.")
