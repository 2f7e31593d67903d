"""`@surface`: a view's declaration of where it accesses and who may use it.

The decorated view runs inside the scope that the request asked for, or not at all. `make
lint-scope` refuses a route that declares neither a surface nor `@public`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial, wraps
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from webapp.context import current_request, current_state, environ_key
from webapp.db.scopes import Scope, tenant_scope
from webapp.decisions.decide import tags_of
from webapp.http.errors import Forbidden, Invalid, ReasonRequired
from webapp.identity import lookup
from webapp.identity.authentication import authenticate
from webapp.identity.principal import PlatformRole, Principal, TenantRole
from webapp.scope.decision import ALL_TENANTS_TARGET, Surface, Target, TenantTarget
from webapp.scope.enter import enter_own, enter_scope
from webapp.scope.headers import (
    HeaderError,
    Reason,
    RequestedGlobal,
    RequestedScope,
    RequestedTenant,
    parse_reason,
    parse_scope,
)

SCOPE_HEADER = "Sightline-Scope"
REASON_HEADER = "Sightline-Reason"

_SCOPE, _REASON = map(environ_key, (SCOPE_HEADER, REASON_HEADER))
Environment = Mapping[str, Any]

P = ParamSpec("P")
R = TypeVar("R")


def surface(
    name: str,
    *,
    tenant_roles: Iterable[TenantRole],
    platform_roles: Iterable[PlatformRole],
    changes: bool = False,
    caches: tuple[str, ...] = (),
    open_because: str | None = None,
    personal: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare a view to be the surface `name`; the fields are those of `policy.Surface`.

    It is closed, which means that nothing of it leaves before its record is durable, unless
    `open_because` says why its rows may be seen even so.
    """
    declared = Surface(
        name=name,
        tenant_roles=frozenset(tenant_roles),
        platform_roles=frozenset(platform_roles),
        changes=changes,
        caches=caches,
        open_because=open_because,
        personal=personal,
    )

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            state, request = current_state(), current_request()
            environ = request.environ
            state["surface"] = declared
            expect = partial(_expected_tags, environ, declared)
            state["principal"] = principal = authenticate(request, expect)
            if declared.personal:
                _refuse_outsider(principal, declared)
                with enter_own(principal) as state["scope"]:
                    return view(*args, **kwargs)
            target = _target(principal, _wanted(environ))
            reason, ip = _reason(environ), environ.get("REMOTE_ADDR")
            with enter_scope(principal, declared, target, reason, ip) as state["scope"]:
                return view(*args, **kwargs)

        guarded.__surface__ = declared  # type: ignore[attr-defined]  # read back by the lint
        return guarded

    return decorate


def current_scope() -> Scope:
    """The scope of the surface that runs now."""
    scope: Scope = current_state()["scope"]
    return scope


def current_principal() -> Principal:
    principal: Principal = current_state()["principal"]
    return principal


def current_surface() -> Surface:
    declared: Surface = current_state()["surface"]
    return declared


def _expected_tags(
    environ: Environment, declared: Surface, hint: Principal | None
) -> Sequence[str]:
    """Guess the cache tags that this request will ask for, so that they come with the token's.

    A guess costs nothing when it is wrong: the reader then fetches what it needs.
    """
    if declared.personal:
        return []
    wanted, holder = environ.get(_SCOPE), hint.id if hint else None
    if wanted == "global":
        return _tags_everywhere(holder, declared.caches)
    slug = wanted.removeprefix("tenant:") if wanted else None
    own = _own_tenant(hint, slug)
    tenant_id = lookup.recall_tenant_id(slug) if own is None and slug else own
    if tenant_id is None:
        return []
    decided = () if own else tags_of(TenantTarget(tenant_id, slug or ""), holder)
    seen = tenant_scope(tenant_id)
    return [*decided, *(f"{kind}:{seen.tag}" for kind in declared.caches)]


@lru_cache(4096)
def _tags_everywhere(holder: UUID | None, caches: tuple[str, ...]) -> Sequence[str]:
    return (*tags_of(ALL_TENANTS_TARGET, holder), *(f"{kind}:global" for kind in caches))


def _own_tenant(principal: Principal | None, slug: str | None) -> UUID | None:
    """The principal's tenant of this slug, or the only one."""
    own = [m for m in principal.memberships if slug in (None, m.tenant)] if principal else []
    return own[0].tenant_id if len(own) == 1 else None


def _refuse_outsider(principal: Principal, declared: Surface) -> None:
    in_tenants = {membership.role for membership in principal.memberships}
    if not (
        in_tenants & declared.tenant_roles or principal.platform_roles & declared.platform_roles
    ):
        raise Forbidden("None of your roles may do this.")


def _wanted(environ: Environment) -> RequestedScope | None:
    header = environ.get(_SCOPE)
    if header is None:
        return None
    try:
        return parse_scope(header)
    except HeaderError as error:
        raise Invalid(
            f"The header {SCOPE_HEADER} {error}.", {SCOPE_HEADER: [str(error)]}
        ) from error


def _reason(environ: Environment) -> Reason | None:
    header = environ.get(_REASON)
    if header is None:
        return None
    try:
        return parse_reason(header)
    except HeaderError as error:
        raise ReasonRequired(f"The header {REASON_HEADER} {error}.") from error


def _target(principal: Principal, wanted: RequestedScope | None) -> Target:
    match wanted:
        case RequestedGlobal():
            return ALL_TENANTS_TARGET
        case RequestedTenant(slug):
            membership = principal.membership(slug)
            tenant_id = membership.tenant_id if membership else lookup.find_tenant_id(slug)
            return TenantTarget(tenant_id, slug)
    if len(principal.memberships) != 1:
        needed = "required: you have no tenant that is your only one"
        raise Invalid(f"The header {SCOPE_HEADER} is {needed}.", {SCOPE_HEADER: [needed]})
    own = principal.memberships[0]
    return TenantTarget(own.tenant_id, own.tenant)
