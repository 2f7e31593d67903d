"""May this principal use this surface in the scope it asks for? Values in, a decision out.

One's own tenant: by one's role in it. A foreign tenant, or all of them: only with a role that the
surface names, for a reason, and then as the rules say. Nothing said is a denial.
"""

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from webapp.db.scopes import NO_EXCLUSION, Exclusion
from webapp.identity.principal import PlatformRole, Principal, TenantRole
from webapp.scope.headers import Reason


@dataclass(frozen=True)
class Surface:
    """A named place where rows are read or changed, and the roles that may use it."""

    name: str
    tenant_roles: frozenset[TenantRole]
    platform_roles: frozenset[PlatformRole]
    """The roles that rules may let elevate to it; empty for a surface that cannot be elevated."""
    changes: bool = False
    """A change is committed when the view returns, and recorded in one's own scope too."""
    caches: tuple[str, ...] = ()
    """The kinds of rows that its cached answers come from (prefixes of cache tags)."""
    open_because: str | None = None
    """A surface is closed: what cannot be recorded is not shown. One that states here why it may
    be open answers nevertheless, raises an alarm, and is recorded as soon as possible. A surface
    that changes something cannot be open."""
    personal: bool = False
    """It shows and changes what concerns the principal, in no tenant's scope: their own requests
    and those that they decide about. Its view records its changes."""


@dataclass(frozen=True)
class TenantTarget:
    tenant_id: UUID | None
    """`None` for a slug that no tenant has."""
    slug: str


@dataclass(frozen=True)
class GlobalTarget:
    pass


ALL_TENANTS_TARGET = GlobalTarget()
Target = TenantTarget | GlobalTarget


@dataclass(frozen=True)
class RulesOutcome:
    """What the rules said of an elevation."""

    explanation: str
    rules: tuple[UUID, ...] = ()
    """The ids of the rules that decided; none when nothing allowed it."""
    policy_version: int | None = None
    excluded: Exclusion = NO_EXCLUSION
    grants: tuple[UUID, ...] = ()
    minutes: int | None = None
    """For how long at most, where the rules say."""
    breaks_glass: bool = False
    """Whether it needs an incident to be open, or to be opened."""
    bypassed_approvals: tuple[UUID | None, ...] = ()
    """Whose approvals break-glass does without: tenants, or `None` for the platform."""


@dataclass(frozen=True)
class Allowed:
    outcome: RulesOutcome | None = None
    """`None` in one's own tenant, where rules have no say."""

    @property
    def elevated(self) -> bool:
        return self.outcome is not None


@dataclass(frozen=True)
class Denied:
    detail: str
    outcome: RulesOutcome | None = None

    @property
    def elevated(self) -> bool:
        return self.outcome is not None


@dataclass(frozen=True)
class NeedsReason:
    """An elevation would be decided, but no reason was given."""


@dataclass(frozen=True)
class NeedsApproval:
    outcome: RulesOutcome


Decision = Allowed | Denied | NeedsReason | NeedsApproval


class Decider(Protocol):
    """What `create_app` binds: how rules and grants decide an elevation."""

    def decide(
        self, principal: Principal, surface: str, target: Target, reason: Reason, ip: str | None
    ) -> Decision:
        """What the rules say now of an elevation."""
        ...

    def use_break_glass(
        self, principal: Principal, target: Target, reason: Reason, outcome: RulesOutcome
    ) -> Decision:
        """What becomes of an elevation that the rules allow by break-glass."""
        ...

    def cache_tags(self, target: Target, holder: UUID | None) -> tuple[str, ...]:
        """The cache tags that a decision about the holder's elevation rests on."""
        ...


def decide(
    principal: Principal,
    surface: Surface,
    target: Target,
    reason: Reason | None,
    ip: str | None,
    decider: Decider,
) -> Decision:
    if isinstance(target, TenantTarget):
        membership = principal.membership(target.slug)
        if membership is not None:
            if membership.role in surface.tenant_roles:
                return _AT_HOME
            return Denied(f"The role {membership.role} may not do this.")
    if reason is None:
        return NeedsReason()
    if not principal.platform_roles & surface.platform_roles:
        detail = "None of your roles allows this access beyond your tenant."
        return Denied(detail, RulesOutcome(detail))
    decision = decider.decide(principal, surface.name, target, reason, ip)
    if isinstance(decision, Allowed) and decision.outcome and decision.outcome.breaks_glass:
        return decider.use_break_glass(principal, target, reason, decision.outcome)
    return decision


_AT_HOME = Allowed()
