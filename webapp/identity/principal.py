"""The authenticated principal, as a value."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Literal
from uuid import UUID

TenantRole = Literal["member", "admin"]
PlatformRole = Literal["support", "engineer", "auditor", "owner", "service"]

TENANT_ROLES: tuple[TenantRole, ...] = ("member", "admin")
STAFF_ROLES: tuple[PlatformRole, ...] = ("support", "engineer", "auditor", "owner")
"""The platform roles of people."""
PLATFORM_ROLES: tuple[PlatformRole, ...] = (*STAFF_ROLES, "service")
"""All platform roles. A service asks on behalf of people, and accesses nothing itself."""

MAX_EMAIL = 320


@dataclass(frozen=True)
class Membership:
    tenant_id: UUID
    tenant: str
    """The tenant's slug."""
    role: TenantRole


@dataclass(frozen=True)
class Bindings:
    """What a service may ask with its token: by default nothing."""

    surfaces: tuple[str, ...] = ()
    """Patterns: a surface's name, a prefix and `.*`, or `*`."""
    tenant_ids: frozenset[UUID] | None = frozenset()
    """`None` for all tenants."""
    break_glass: bool = False
    """Whether it may ask for break-glass."""
    reports_mfa: bool = False
    """Whether it may say that a person has shown a second factor."""


NO_BINDINGS = Bindings()


@dataclass(frozen=True)
class Principal:
    id: UUID
    email: str
    platform_roles: frozenset[PlatformRole]
    memberships: tuple[Membership, ...]
    token_id: UUID | None
    """The API token of the request; `None` for a principal with another credential."""
    expires_at: datetime | None
    """When the credential ends; `None` for one that does not."""
    mfa: bool = False
    """Whether a second factor was shown for the credential."""
    ended: bool = False
    """Whether the user has ended; only possible if another principal asks for the user."""
    bindings: Bindings = NO_BINDINGS
    """What the credential lets a service ask."""

    def membership(self, slug: str) -> Membership | None:
        return next((m for m in self.memberships if m.tenant == slug), None)

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """Every role held, tenants' as `slug:role`, sorted."""
        own = (f"{m.tenant}:{m.role}" for m in self.memberships)
        return (*sorted(self.platform_roles), *sorted(own))

    @cached_property
    def role_names(self) -> frozenset[str]:
        """The roles held on the platform and in any tenant, as rules name them."""
        return self.platform_roles | {m.role for m in self.memberships}
