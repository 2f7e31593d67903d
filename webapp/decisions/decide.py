"""Decisions about elevations: what the rules and the grants say now.

What the rules said of the same request is kept in the process until a rule or a grant that was
asked changes, or time alone may change it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

from flask import Flask, current_app
from prometheus_client import Counter

from webapp.caching import GenerationCache, read_generations
from webapp.decisions.break_glass import use_break_glass
from webapp.grants.active import holder_tag, read_active_grants
from webapp.grants.grant import cover
from webapp.identity.principal import Principal
from webapp.rules.engine.evaluate import NO_RULES, Candidate, GrantMatch, Verdict, lasting
from webapp.rules.engine.evaluate import decide as decide_by_rules
from webapp.rules.engine.explanation import explain
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.engine.templates import BREAK_GLASS
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
    "Decisions for which rules were evaluated, by their outcome; the others were remembered.",
    ("ruling",),
)


@dataclass(frozen=True)
class _Known:
    decision: Decision
    until: datetime | None


class RulesDecider:
    """The `Decider` that `scope` asks."""

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


def authorization_request(
    principal: Principal, surface: str, reason: Reason, ip: str | None
) -> AuthorizationRequest:
    """What the rules are asked about a principal's access to a surface."""
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
    """What the rules say now of an elevation. Only the holder's grants count."""
    current = read_generations(tags_of(target, holder))
    remembered: GenerationCache = current_app.extensions[_EXTENSION]
    key = (target, holder, request)
    known: _Known | None = remembered.get(key, current)
    if known is not None and (known.until is None or datetime.now(UTC) < known.until):
        return known.decision
    verdict, until = decide_at(request, target, holder, datetime.now(UTC))
    EVALUATED.labels(verdict.ruling).inc()
    version = max(current[owner.tag] for owner in owners_of(target))
    decision = decision_of(verdict, request, version)
    remembered.put(key, current, _Known(decision, until))
    return decision


def decide_at(
    request: AuthorizationRequest, target: Target, holder: UUID | None, at: datetime
) -> tuple[Verdict, datetime | None]:
    """What today's rules say of an access at the moment `at`, and when time alone may change it."""
    platform, *others = [read_rules(owner, request.surface) for owner in owners_of(target)]
    tenants = others[0] if others else NO_RULES
    verdict = decide_by_rules(
        platform,
        tenants,
        request,
        at,
        everywhere=isinstance(target, GlobalTarget),
        covers=_covers(request, target, holder, at),
    )
    return verdict, lasting(verdict, (platform, tenants), at)


def owners_of(target: Target) -> tuple[Owner, ...]:
    """Whose rules decide: the platform's, then those of the tenants that may narrow them."""
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
    """The cache tags that a decision rests on."""
    holds = () if holder is None else (holder_tag(holder),)
    return (*(owner.tag for owner in owners_of(target)), *holds)


def _covers(
    request: AuthorizationRequest, target: Target, holder: UUID | None, at: datetime
) -> Callable[[Candidate], GrantMatch | None]:
    tenant_id = target.tenant_id if isinstance(target, TenantTarget) else None

    def covers(candidate: Candidate) -> GrantMatch | None:
        held = read_active_grants(holder) if holder is not None else ()
        return cover(held, candidate, request, tenant_id, at)

    return covers


def decision_of(verdict: Verdict, request: AuthorizationRequest, version: int) -> Decision:
    """A verdict on an elevation as a decision; `version` is that of the rules asked."""
    outcome = RulesOutcome(
        explanation=explain(verdict, request),
        rules=tuple(candidate.id for candidate in verdict.decided_by),
        policy_version=version,
        excluded=verdict.excluded,
        grants=verdict.grants,
        minutes=verdict.minutes,
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
