"""Decisions: which principal may use a surface in which scope."""

from itertools import product
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.identity.principal import (
    PLATFORM_ROLES,
    TENANT_ROLES,
    Membership,
    PlatformRole,
    Principal,
    TenantRole,
)
from webapp.scope.decision import (
    Allowed,
    Decision,
    Denied,
    GlobalTarget,
    NeedsReason,
    RulesOutcome,
    Surface,
    Target,
    TenantTarget,
    decide,
)
from webapp.scope.headers import Reason

ACME, GLOBEX, PERSON, TOKEN = (UUID(int=number) for number in range(1, 5))
OWN = TenantTarget(ACME, "acme")
FOREIGN = TenantTarget(GLOBEX, "globex")
MISSING = TenantTarget(None, "nobody")
ALL_TENANTS_TARGET = GlobalTarget()
BEYOND: tuple[Target, ...] = (FOREIGN, MISSING, ALL_TENANTS_TARGET)
REASON = Reason("incident")

SURFACE = Surface("rules.list", frozenset({"admin"}), frozenset({"support"}))
ALLOWED = Allowed(RulesOutcome("a rule allows it"))


class Rules:
    """A decider that always decides the same, and remembers its arguments."""

    def __init__(self, decided: Decision) -> None:
        self.decided = decided
        self.asked: list[tuple[str, str, Target, Reason, str | None]] = []

    def decide(
        self, principal: Principal, surface: str, target: Target, reason: Reason, ip: str | None
    ) -> Decision:
        self.asked.append((principal.email, surface, target, reason, ip))
        return self.decided

    def use_break_glass(
        self, principal: Principal, target: Target, reason: Reason, outcome: RulesOutcome
    ) -> Decision:
        return Denied("break-glass")

    def cache_tags(self, target: Target, holder: UUID | None) -> tuple[str, ...]:
        return ()


def ask(
    who: Principal,
    surface: Surface,
    target: Target,
    reason: Reason | None,
    decided: Decision = ALLOWED,
) -> Decision:
    """Decide by rules that always say `decided`."""
    return decide(who, surface, target, reason, "192.0.2.1", Rules(decided))


def principal(role: TenantRole | None, *platform: PlatformRole) -> Principal:
    own = (Membership(ACME, "acme", role),) if role else ()
    return Principal(PERSON, "a@example.org", frozenset(platform), own, TOKEN, None)


@pytest.mark.parametrize("reason", [None, REASON])
def test_access_to_own_tenant_is_no_elevation_with_any_reason(reason: Reason | None) -> None:
    assert ask(principal("admin"), SURFACE, OWN, reason) == Allowed()


def test_role_that_surface_does_not_name_is_refused_in_own_tenant() -> None:
    decision = ask(principal("member"), SURFACE, OWN, None)
    assert isinstance(decision, Denied)
    assert not decision.elevated


def test_platform_role_does_not_widen_role_in_own_tenant() -> None:
    decision = ask(principal("member", "support"), SURFACE, OWN, REASON)
    assert isinstance(decision, Denied)
    assert not decision.elevated


@pytest.mark.parametrize("target", BEYOND)
def test_elevation_without_reason_is_refused_before_anything_else(target: Target) -> None:
    assert ask(principal("admin"), SURFACE, target, None) == NeedsReason()
    assert ask(principal(None, "support"), SURFACE, target, None) == NeedsReason()


@pytest.mark.parametrize("target", BEYOND)
def test_elevation_needs_a_platform_role_of_the_surface(target: Target) -> None:
    assert ask(principal(None, "support"), SURFACE, target, REASON) == ALLOWED
    denied = ask(principal("admin", "engineer"), SURFACE, target, REASON)
    assert isinstance(denied, Denied)
    assert denied.elevated


def test_unknown_tenant_is_decided_like_an_existing_one() -> None:
    for who, reason in product([principal("admin"), principal(None, "support")], [None, REASON]):
        assert ask(who, SURFACE, FOREIGN, reason) == ask(who, SURFACE, MISSING, reason)


def test_decider_is_given_principal_surface_target_reason_and_address() -> None:
    who, rules = principal("member", "support"), Rules(ALLOWED)
    reason = Reason("incident", "INC-1", "a note")
    assert decide(who, SURFACE, ALL_TENANTS_TARGET, reason, "192.0.2.1", rules) == ALLOWED
    assert rules.asked == [(who.email, SURFACE.name, ALL_TENANTS_TARGET, reason, "192.0.2.1")]


def test_break_glass_that_rules_allow_is_used_by_the_decider() -> None:
    rules = Rules(Allowed(RulesOutcome("by break-glass", needs_break_glass=True)))
    who = principal(None, "support")
    decision = decide(who, SURFACE, FOREIGN, Reason("break_glass"), None, rules)
    assert decision == Denied("break-glass")


@pytest.mark.parametrize("target", BEYOND)
def test_outcome_of_rules_becomes_the_decision(target: Target) -> None:
    decided = Denied("a rule denies it", RulesOutcome("a rule denies it"))
    assert ask(principal(None, "support"), SURFACE, target, REASON, decided) is decided


@given(
    role=st.sampled_from([None, *TENANT_ROLES]),
    held=st.sets(st.sampled_from(PLATFORM_ROLES)),
    tenant_roles=st.frozensets(st.sampled_from(TENANT_ROLES)),
    platform_roles=st.frozensets(st.sampled_from(PLATFORM_ROLES)),
    target=st.sampled_from([OWN, *BEYOND]),
    reason=st.sampled_from([None, REASON]),
    changes=st.booleans(),
)
def test_no_decision_allows_what_no_role_allows(
    role: TenantRole | None,
    held: set[PlatformRole],
    tenant_roles: frozenset[TenantRole],
    platform_roles: frozenset[PlatformRole],
    target: Target,
    reason: Reason | None,
    changes: bool,
) -> None:
    who = principal(role, *held)
    declared = Surface("any.surface", tenant_roles, platform_roles, changes)
    decision = ask(who, declared, target, reason)
    at_home = target == OWN and role is not None
    expected = role in tenant_roles if at_home else bool(reason and held & platform_roles)
    assert isinstance(decision, Allowed) == expected
    if isinstance(decision, (Allowed, Denied)):
        assert decision.elevated == (not at_home)
