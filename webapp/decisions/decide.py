"""Decisions about elevations, made from the current rules and grants.

Each process caches its decisions. A cached decision is used until one of its rules or grants
changes, or until the time at which the same rules may decide otherwise.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

from flask import Flask, current_app
from prometheus_client import Counter

from webapp.caching import GenerationCache, read_generations
from webapp.decisions import over_budget
from webapp.decisions.break_glass import use_break_glass
from webapp.grants.active import holder_tag, read_active_grants
from webapp.grants.grant import find_grant
from webapp.identity.principal import Principal
from webapp.rules.engine.evaluate import (
    NO_RULES,
    Candidate,
    FindGrant,
    GrantMatch,
    Verdict,
    decide,
    valid_until,
)
from webapp.rules.engine.explanation import explain
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.engine.templates import BREAK_GLASS
from webapp.rules.engine.until import holds_until
from webapp.rules.rule_sets import ALL_TENANTS, PLATFORM, Owner, read_rules
from webapp.scope.decision import (
    Allowed,
    Decision,
    Denied,
    GlobalTarget,
    NeedsApproval,
    RulesOutcome,
    Target,
    TenantTarget,
)
from webapp.scope.headers import Reason

_EXTENSION = "decisions"

EVALUATED = Counter(
    "sightline_rules_evaluated_total",
    "Decisions for which rules were evaluated, by outcome. Cached decisions are not counted.",
    ("ruling",),
)


@dataclass(frozen=True)
class _CachedDecision:
    decision: Decision
    until: datetime | None
    """When time alone may change it; `None`: never."""


class RulesDecider:
    """The `Decider` of `webapp.scope`, by rules and grants."""

    def decide(
        self, principal: Principal, surface: str, target: Target, reason: Reason, ip: str | None
    ) -> Decision:
        request = authorization_request(principal, surface, reason, ip)
        return decide_elevation(target, principal.id, request)

    def use_break_glass(
        self, principal: Principal, target: Target, reason: Reason, outcome: RulesOutcome
    ) -> Decision:
        return use_break_glass(principal, target, reason, outcome)

    def cache_tags(self, target: Target, holder: UUID | None) -> tuple[str, ...]:
        return tags_of(target, holder)


def init_app(app: Flask) -> None:
    app.extensions[_EXTENSION] = GenerationCache()
    over_budget.init_app(app)


def authorization_request(
    principal: Principal, surface: str, reason: Reason, ip: str | None
) -> AuthorizationRequest:
    """The request that the rules decide, for a principal's access to a surface."""
    return AuthorizationRequest(
        email=principal.email,
        roles=principal.role_names,
        mfa=principal.mfa,
        surface=surface,
        reason=reason.code,
        ticket=reason.ticket,
        ip=ip,
    )


def decide_elevation(
    target: Target, holder: UUID | None, request: AuthorizationRequest
) -> Decision:
    """Decide an elevation by the current rules and the holder's grants, or from the cache."""
    current = read_generations(tags_of(target, holder))
    cache: GenerationCache = current_app.extensions[_EXTENSION]
    key = (target, holder, request)
    cached: _CachedDecision | None = cache.get(key, current)
    if cached is not None and (cached.until is None or datetime.now(UTC) < cached.until):
        return cached.decision
    verdict, until = decide_at(request, target, holder, datetime.now(UTC))
    EVALUATED.labels(verdict.ruling).inc()
    version = max(current[owner.tag] for owner in owners_of(target))
    decision = decision_of(verdict, request, version)
    cache.put(key, current, _CachedDecision(decision, until))
    return decision


def decide_at(
    request: AuthorizationRequest, target: Target, holder: UUID | None, at: datetime
) -> tuple[Verdict, datetime | None]:
    """Decide an access at the moment `at` by the current rules.

    Returns the verdict, with the moment at which the first of what it rests on ends, and when it
    has to be decided again.
    """
    platform, *others = [read_rules(owner, request.surface) for owner in owners_of(target)]
    tenants = others[0] if others else NO_RULES
    over_budget.tell_tenants(tenants.over_budget, request.surface)
    verdict = decide(
        platform,
        tenants,
        request,
        at,
        everywhere=isinstance(target, GlobalTarget),
        find_grant=_grant_finder(request, target, holder, at),
    )
    sets = (platform, tenants)
    held = replace(verdict, until=holds_until(verdict, sets, request, at))
    return held, valid_until(verdict, sets, at)


def owners_of(target: Target) -> tuple[Owner, ...]:
    """The owners of the rules that decide: the platform, then the tenants that may narrow."""
    match target:
        case GlobalTarget():
            return PLATFORM, ALL_TENANTS
        case TenantTarget(None):
            return (PLATFORM,)
        case TenantTarget(tenant_id):
            return PLATFORM, Owner(tenant_id)
    raise TypeError(target)


@lru_cache(4096)
def tags_of(target: Target, holder: UUID | None) -> tuple[str, ...]:
    """The cache tags of the rules and grants that a decision rests on."""
    grants = () if holder is None else (holder_tag(holder),)
    return (*(owner.tag for owner in owners_of(target)), *grants)


def _grant_finder(
    request: AuthorizationRequest, target: Target, holder: UUID | None, at: datetime
) -> FindGrant:
    tenant_id = target.tenant_id if isinstance(target, TenantTarget) else None

    def find(candidate: Candidate) -> GrantMatch | None:
        grants = read_active_grants(holder) if holder is not None else ()
        return find_grant(grants, candidate, request, tenant_id, at)

    return find


def decision_of(verdict: Verdict, request: AuthorizationRequest, version: int) -> Decision:
    """The decision that a verdict makes. `version` is the version of the rules that decided."""
    explanation = explain(verdict, request)
    outcome = RulesOutcome(
        explanation=explanation.sentence,
        named=explanation.named,
        rules=tuple(candidate.id for candidate in verdict.decided_by),
        policy_version=version,
        excluded=verdict.excluded,
        grants=verdict.grants,
        minutes=verdict.minutes,
        until=verdict.until,
        needs_break_glass=request.reason == BREAK_GLASS and verdict.ruling == "allowed",
        bypassed_approvals=tuple(
            {candidate.tenant_id: None for candidate in verdict.bypassed_approvals}
        ),
    )
    match verdict.ruling:
        case "allowed":
            return Allowed(outcome)
        case "approval_required":
            return NeedsApproval(outcome)
    return Denied(outcome.explanation, outcome)
