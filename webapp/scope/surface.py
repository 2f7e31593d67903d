"""`@surface`: declares what a view shows or changes, and who may use it.

The decorated view runs inside the requested scope, or not at all. Its changes are committed when it
returns. `make lint-scope` refuses a route that declares neither a surface nor
`@public`.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial, wraps
from typing import ParamSpec, TypeVar, cast
from uuid import UUID

from flask import Response, request

from webapp.db.scopes import Scope, TenantScope
from webapp.extensions import db
from webapp.http.errors import Forbidden, Invalid, NotFound, RateLimited, ReasonRequired
from webapp.http.parsing import refuse_query
from webapp.http.rate_limits import current_limits
from webapp.http.state import RequestState, current_state
from webapp.identity import lookup
from webapp.identity.authentication import authenticate
from webapp.identity.principal import PlatformRole, Principal, TenantRole
from webapp.scope.decision import (
    ALL_TENANTS_TARGET,
    Allowed,
    Denied,
    Surface,
    Target,
    TenantTarget,
)
from webapp.scope.enter import (
    begin_access,
    count_refused,
    current_decider,
    enter_own,
    enter_scope,
)
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

P = ParamSpec("P")
R = TypeVar("R")


def surface(
    name: str,
    *,
    tenant_roles: Iterable[TenantRole],
    platform_roles: Iterable[PlatformRole],
    changes: bool = False,
    stores_because: str | None = None,
    caches: tuple[str, ...] = (),
    open_because: str | None = None,
    personal: bool = False,
    streams: bool = False,
    decides: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare a view to be the surface `name`; the fields are those of `decision.Surface`.

    A surface is closed: no answer leaves before its record is durable, unless `open_because` says
    why its rows may be shown without a record.
    """
    declared = Surface(
        name=name,
        tenant_roles=frozenset(tenant_roles),
        platform_roles=frozenset(platform_roles),
        changes=changes,
        stores_because=stores_because,
        caches=caches,
        open_because=open_because,
        personal=personal,
        streams=streams,
        decides=decides,
    )

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            state = current_state()
            with _enter(state, declared) as state.surface_scope:
                refuse_query(view)
                try:
                    response = view(*args, **kwargs)
                except Exception as error:
                    _record_attempt(state, declared, error)
                    raise
                if declared.changes or declared.stores_because:
                    db.session.commit()
                return _private(response, state)

        guarded.__surface__ = declared  # type: ignore[attr-defined]  # read back by the lint
        return guarded

    return decorate


def current_scope() -> Scope:
    """The scope of the surface that runs now."""
    scope = current_state().surface_scope
    assert scope is not None  # noqa: S101 - a view runs inside one
    return scope


def current_tenant() -> str | None:
    """The slug of the tenant in whose scope the surface runs; `None` in the scope of all."""
    if not isinstance(current_scope(), TenantScope):
        return None
    target = _target(current_principal(), _requested_scope(request.headers.get(SCOPE_HEADER)))
    return target.slug if isinstance(target, TenantTarget) else None


def current_principal() -> Principal:
    return cast(Principal, current_state().principal)


def current_surface() -> Surface:
    return cast(Surface, current_state().surface)


def _enter(state: RequestState, declared: Surface) -> AbstractContextManager[Scope]:
    state.surface = declared
    headers = request.headers
    scope_header = headers.get(SCOPE_HEADER)
    expect = partial(_expected_tags, declared, scope_header)
    state.principal = principal = authenticate(request, expect)
    if declared.personal:
        _refuse_outsider(principal, declared)
        return enter_own(principal, decides=declared.decides)
    target = _target(principal, _requested_scope(scope_header))
    _count_for_tenant(state, principal, target)
    reason = _reason(headers.get(REASON_HEADER))
    return enter_scope(principal, declared, target, reason, request.remote_addr)


def _record_attempt(state: RequestState, declared: Surface, error: Exception) -> None:
    """Record a use of a personal surface that fails before its view has recorded it.

    Elsewhere the guard has recorded a change before the view runs. A personal surface is in no
    scope: the record is in that of the principal's only tenant, or in no tenant's.
    """
    # What is beyond the limit of refused attempts is counted, and not recorded.
    is_recorded = bool(state.accesses) or isinstance(error, RateLimited)
    if declared.personal and declared.changes and not is_recorded:
        principal = current_principal()
        decision = Denied(str(error)) if isinstance(error, Forbidden) else Allowed()
        if isinstance(error, NotFound):
            count_refused(principal, declared)
        begin_access(principal, declared, _home(principal), None, decision)


def _home(principal: Principal) -> Target:
    """The principal's tenant, if there is exactly one, or else the platform."""
    if len(principal.memberships) != 1:
        return ALL_TENANTS_TARGET
    own = principal.memberships[0]
    return TenantTarget(own.tenant_id, own.tenant)


def _count_for_tenant(state: RequestState, principal: Principal, target: Target) -> None:
    """Count a request of a tenant's own people. Staff's accesses take nothing from a tenant."""
    if isinstance(target, TenantTarget):
        membership = principal.membership(target.slug)
        if membership is not None:
            current_limits().tenant.count(membership.tenant_id.int, state)


def _private(response: R, state: RequestState) -> R:
    """Mark an answer as one principal's, in one scope: no shared cache may keep it.

    No cache at all may keep an elevated one: reading it again is another access.
    """
    if isinstance(response, Response):
        stored = "no-store" if state.elevated else "private, no-cache"
        response.headers.add("Cache-Control", stored)
        response.headers.add("Vary", f"Authorization, Cookie, {SCOPE_HEADER}")
    return response


def _expected_tags(
    declared: Surface, requested: str | None, hint: Principal | None
) -> Sequence[str]:
    """Guess the cache tags of this request, so that they are read together with the token's.

    A wrong guess costs nothing: the reader then fetches the tags that it needs.
    """
    if declared.personal:
        return []
    holder = hint.id if hint else None
    decider = current_decider()
    if requested == "global":
        decided = decider.cache_tags(ALL_TENANTS_TARGET, holder)
        return [*decided, *(f"{kind}:global" for kind in declared.caches)]
    slug = requested.removeprefix("tenant:") if requested else None
    own = _own_tenant(hint, slug)
    if own is None and hint is not None and slug and hint.platform_roles & declared.platform_roles:
        tenant_id = lookup.recall_tenant_id(slug, hint.id)
    else:
        tenant_id = own
    if tenant_id is None:
        return []
    target = TenantTarget(tenant_id, slug or "")
    decided = () if own else decider.cache_tags(target, holder)
    seen = TenantScope(tenant_id)
    return [*decided, *(f"{kind}:{seen.tag}" for kind in declared.caches)]


def _own_tenant(principal: Principal | None, slug: str | None) -> UUID | None:
    """The principal's tenant with this slug, or without a slug the principal's only tenant."""
    own = [m for m in principal.memberships if slug in (None, m.tenant)] if principal else []
    return own[0].tenant_id if len(own) == 1 else None


def _refuse_outsider(principal: Principal, declared: Surface) -> None:
    in_tenants = {membership.role for membership in principal.memberships}
    if not (
        in_tenants & declared.tenant_roles or principal.platform_roles & declared.platform_roles
    ):
        raise Forbidden("None of your roles may do this.")


def _requested_scope(header: str | None) -> RequestedScope | None:
    if header is None:
        return None
    try:
        return parse_scope(header)
    except HeaderError as error:
        raise Invalid(
            f"The header {SCOPE_HEADER} {error}.", {SCOPE_HEADER: [str(error)]}
        ) from error


def _reason(header: str | None) -> Reason | None:
    if header is None:
        return None
    try:
        return parse_reason(header)
    except HeaderError as error:
        raise ReasonRequired(f"The header {REASON_HEADER} {error}.") from error


def _target(principal: Principal, requested: RequestedScope | None) -> Target:
    match requested:
        case RequestedGlobal():
            return ALL_TENANTS_TARGET
        case RequestedTenant(slug):
            membership = principal.membership(slug)
            tenant_id = (
                membership.tenant_id if membership else lookup.find_tenant_id(slug, principal.id)
            )
            return TenantTarget(tenant_id, slug)
    own = _home(principal)
    if own == ALL_TENANTS_TARGET:
        needed = "required: you have no tenant that is your only one"
        raise Invalid(f"The header {SCOPE_HEADER} is {needed}.", {SCOPE_HEADER: [needed]})
    return own
