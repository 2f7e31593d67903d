"""Decide whether a principal may use a surface in a requested scope: values in, a decision out.

In the principal's own tenant, the role there decides. A foreign tenant, or all tenants, takes a
role that the surface names, a reason, and rules that allow it. Where no rule says anything, the
decision is a denial.
"""

from dataclasses import dataclass
from datetime import datetime
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
    """Whether its view changes rows: they are committed when the view returns, and the change is
    recorded in the principal's own tenant too."""
    stores_because: str | None = None
    """Why an access that changes nothing may store rows, which only its principal sees. They are
    committed when the view returns, and make no change of the access."""
    caches: tuple[str, ...] = ()
    """The kinds of rows that its cached answers come from (prefixes of cache tags)."""
    open_because: str | None = None
    """Why the surface may be open. A closed surface shows nothing that cannot be recorded. An open
    one answers nevertheless, raises an alarm, and is recorded as soon as possible. A surface that
    changes something cannot be open."""
    personal: bool = False
    """Whether it shows and changes what concerns the principal, in no tenant's scope: the
    principal's own requests, and those that the principal decides about. Its view records its
    changes."""
    streams: bool = False
    """Whether its answer goes on after its view has returned. Its access is on disk before the
    answer begins, in the principal's own tenant too, and gets its rows when the answer ends."""
    decides: bool = False
    """Whether it is for one thing that staff may have to decide about. Then its view finds what is
    of any tenant, and has to refuse whoever may decide nothing about it."""


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
class NamedRule:
    """A rule that an explanation names."""

    id: UUID
    owner: str | None
    """A tenant's slug; `None` for the platform."""
    name: str | None
    """`None` for a rule that cannot be read."""


@dataclass(frozen=True)
class RulesOutcome:
    """What the rules say about an elevation."""

    explanation: str
    """A sentence, made from the parts in `named`."""
    rules: tuple[UUID, ...] = ()
    """The ids of the rules that decided; none when nothing allowed it."""
    policy_version: int | None = None
    excluded: Exclusion = NO_EXCLUSION
    grants: tuple[UUID, ...] = ()
    named: tuple[NamedRule, ...] = ()
    """The rules that the explanation names."""
    minutes: int | None = None
    """The longest time that the rules allow, where they set one."""
    until: datetime | None = None
    """When the first of what an allowed elevation rests on ends: a rule, its window, a grant or an
    incident. `None` if nothing of it ends within a day."""
    needs_break_glass: bool = False
    """Whether the elevation needs an open incident."""
    bypassed_approvals: tuple[UUID | None, ...] = ()
    """The owners whose approvals break-glass bypasses: tenants, or `None` for the platform."""


@dataclass(frozen=True)
class Allowed:
    outcome: RulesOutcome | None = None
    """`None` in the principal's own tenant, where rules are not asked."""

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
    """No reason was given, and an elevation is not decided without one."""


@dataclass(frozen=True)
class NeedsApproval:
    outcome: RulesOutcome


Decision = Allowed | Denied | NeedsReason | NeedsApproval


class Decider(Protocol):
    """Decides elevations by rules and grants; `create_app` binds one."""

    def decide(
        self, principal: Principal, surface: str, target: Target, reason: Reason, ip: str | None
    ) -> Decision:
        """Decide an elevation by the current rules and grants."""
        ...

    def use_break_glass(
        self, principal: Principal, target: Target, reason: Reason, outcome: RulesOutcome
    ) -> Decision:
        """Decide an elevation that the rules allow by break-glass, with its incident."""
        ...

    def cache_tags(self, target: Target, holder: UUID | None) -> tuple[str, ...]:
        """The cache tags of what a decision about the holder's elevation is made from."""
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
                return _ALLOWED_IN_OWN_TENANT
            return Denied(f"The role {membership.role} may not do this.")
    if reason is None:
        return NeedsReason()
    if not principal.platform_roles & surface.platform_roles:
        detail = "None of your roles allows this access beyond your tenant."
        return Denied(detail, RulesOutcome(detail))
    decision = decider.decide(principal, surface.name, target, reason, ip)
    if isinstance(decision, Allowed) and decision.outcome and decision.outcome.needs_break_glass:
        return decider.use_break_glass(principal, target, reason, decision.outcome)
    return decision


_ALLOWED_IN_OWN_TENANT = Allowed()
