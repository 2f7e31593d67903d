"""Decisions: the policy, told what the rules and grants say now.

What the rules said of the same circumstances is kept in the process until a rule or a grant that
was asked changes, or time alone may change it: a decision costs no more than an access to what is
current.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from uuid import UUID

from flask import Flask
from prometheus_client import Counter

from webapp.caching import GenerationCache, read_generations
from webapp.context import current_application
from webapp.grants.active import holder_tag, read_active_grants
from webapp.grants.grant import cover
from webapp.identity.principal import Principal
from webapp.rules.engine.evaluate import (
    NO_RULES,
    Candidate,
    GrantMatch,
    Verdict,
    lasting,
)
from webapp.rules.engine.evaluate import decide as decide_by_rules
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.rule_sets import ALL_TENANTS, PLATFORM, Owner, read_rules
from webapp.scope import decision as policy
from webapp.scope.decision import Decision, GlobalTarget, Surface, Target, TenantTarget
from webapp.scope.headers import Reason

_EXTENSION = "sightline.decisions"

EVALUATED = Counter(
    "sightline_rules_evaluated_total",
    "Decisions that rules were asked for, by what they said; others were remembered.",
    ("ruling",),
)


@dataclass(frozen=True)
class _Known:
    decision: Decision
    until: datetime | None


def init_app(app: Flask) -> None:
    app.extensions[_EXTENSION] = GenerationCache()


def decide(
    principal: Principal, surface: Surface, target: Target, reason: Reason | None, ip: str | None
) -> Decision:
    """Whether this principal may use this surface there, as of now."""
    consult = partial(decide_elevation, target, principal.id)
    return policy.decide(principal, surface, target, reason, ip, consult)


def decide_elevation(target: Target, holder: UUID | None, about: AuthorizationRequest) -> Decision:
    """What the rules say now of an elevation. `holder` is whose grants count."""
    tags = tags_of(target, holder)
    current = read_generations(tags)
    remembered: GenerationCache = current_application().extensions[_EXTENSION]
    key = (target, holder, about)
    known: _Known | None = remembered.get(key, current)
    if known is not None and (known.until is None or datetime.now(UTC) < known.until):
        return known.decision
    verdict, until = decide_at(about, target, holder, datetime.now(UTC))
    EVALUATED.labels(verdict.ruling).inc()
    version = max(current[owner.tag] for owner in owners_of(target))
    decision = policy.decision_of(verdict, about, version)
    remembered.put(key, current, _Known(decision, until))
    return decision


def decide_at(
    about: AuthorizationRequest, target: Target, holder: UUID | None, at: datetime
) -> tuple[Verdict, datetime | None]:
    """What today's rules say of an access to the moment `at`, and when time alone may change
    that."""
    platform, *others = [read_rules(owner, about.surface) for owner in owners_of(target)]
    tenants = others[0] if others else NO_RULES
    verdict = decide_by_rules(
        platform,
        tenants,
        about,
        at,
        everywhere=isinstance(target, GlobalTarget),
        covers=_covers(about, target, holder, at),
    )
    return verdict, lasting(verdict, (platform, tenants), at)


def owners_of(target: Target) -> tuple[Owner, ...]:
    """Whose rules decide: the platform's, and then those of who may narrow them, if anybody."""
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
    about: AuthorizationRequest, target: Target, holder: UUID | None, at: datetime
) -> Callable[[Candidate], GrantMatch | None]:
    tenant_id = target.tenant_id if isinstance(target, TenantTarget) else None

    def covers(candidate: Candidate) -> GrantMatch | None:
        held = read_active_grants(holder) if holder is not None else ()
        return cover(held, candidate, about, tenant_id, at)

    return covers
