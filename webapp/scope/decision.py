"""May this principal use this surface in the scope it asks for? Values in, a decision out.

One's own tenant: by one's role in it. A foreign tenant, or all of them: only with a role that the
surface names, for a reason, and then as the rules say. Nothing said is a denial.
"""

from collections.abc import Callable
from dataclasses import dataclass
from sys import intern
from uuid import UUID

from webapp.db.scopes import NO_EXCLUSION, Exclusion
from webapp.identity.principal import PlatformRole, Principal, TenantRole
from webapp.memo import remember_same
from webapp.rules.engine.evaluate import Verdict
from webapp.rules.engine.explanation import explain
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.engine.templates import BREAK_GLASS
from webapp.scope.headers import Reason


@dataclass(frozen=True)
class Surface:
    """A named place where rows are accessed or changed, and the roles that may use it."""

    name: str
    tenant_roles: frozenset[TenantRole]
    platform_roles: frozenset[PlatformRole]
    """The roles that rules may let elevate to it; empty for a surface that cannot be elevated."""
    changes: bool = False
    """A change is recorded in one's own scope too."""
    caches: tuple[str, ...] = ()
    """The kinds of rows that its cached answers come from (prefixes of cache tags)."""
    open_because: str | None = None
    """A surface is closed: what cannot be recorded is not shown. Only one that says here why it
    may be open answers nevertheless, raises an alarm, and is recorded as soon as that is possible.
    Never one that changes something."""
    personal: bool = False
    """It shows and changes what concerns the principal, in no tenant's scope: the requests that it
    has made and those that it decides about. Its changes are recorded by their view."""


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
    """The ids of those that made it so; none when nothing allowed it."""
    policy_version: int | None = None
    excluded: Exclusion = NO_EXCLUSION
    grants: tuple[UUID, ...] = ()
    minutes: int | None = None
    """For how long at most, where the rules say."""
    breaks_glass: bool = False
    """It needs an incident to be open, or to be opened."""
    bypassed_approvals: tuple[UUID | None, ...] = ()
    """Whose approvals using break-glass does without: tenants, or `None` for the platform."""


@dataclass(frozen=True)
class Allowed:
    ruled: RulesOutcome | None = None
    """`None` in one's own tenant, where rules have no say."""

    @property
    def elevated(self) -> bool:
        return self.ruled is not None


@dataclass(frozen=True)
class Denied:
    detail: str
    ruled: RulesOutcome | None = None

    @property
    def elevated(self) -> bool:
        return self.ruled is not None


@dataclass(frozen=True)
class NeedsReason:
    """Elevation would be decided, but nobody said why it is wanted."""


@dataclass(frozen=True)
class NeedsApproval:
    ruled: RulesOutcome


Decision = Allowed | Denied | NeedsReason | NeedsApproval

Consult = Callable[[AuthorizationRequest], Decision]
"""What the rules say of an elevation, as `decision_of` puts it."""


def decide(
    principal: Principal,
    surface: Surface,
    target: Target,
    reason: Reason | None,
    ip: str | None,
    consult: Consult,
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
    place = None if ip is None else intern(ip)
    return consult(authorization_request(principal, surface.name, reason, place))


@remember_same(1024)
def authorization_request(
    principal: Principal, surface: str, reason: Reason, ip: str | None
) -> AuthorizationRequest:
    """What the rules are asked about a principal's access a surface."""
    return AuthorizationRequest(
        email=principal.email,
        roles=principal.role_names,
        mfa=principal.mfa,
        surface=surface,
        reason=reason.code,
        ticket=reason.ticket,
        ip=ip,
    )


def decision_of(verdict: Verdict, about: AuthorizationRequest, version: int) -> Decision:
    """A verdict on an elevation as a decision; `version` is that of the rules asked."""
    ruled = RulesOutcome(
        explanation=explain(verdict, about),
        rules=tuple(candidate.id for candidate in verdict.decided_by),
        policy_version=version,
        excluded=verdict.excluded,
        grants=verdict.grants,
        minutes=verdict.minutes,
        breaks_glass=about.reason == BREAK_GLASS and verdict.ruling == "allowed",
        bypassed_approvals=tuple(
            {candidate.tenant_id: None for candidate in verdict.bypassed_approvals}
        ),
    )
    match verdict.ruling:
        case "allowed":
            return Allowed(ruled)
        case "approval_required":
            return NeedsApproval(ruled)
    return Denied(ruled.explanation, ruled)


_AT_HOME = Allowed()
