"""Simulations of draft rules, on described accesses and on past ones. They change nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from webapp.audit.event import Ruling
from webapp.db.scopes import Scope, TenantScope
from webapp.http.errors import Invalid
from webapp.rules.drafts import rule_of_draft
from webapp.rules.engine.evaluate import (
    NO_RULES,
    Candidate,
    RuleSet,
    Verdict,
)
from webapp.rules.engine.explanation import explain
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.narrowing import prepare_within_budget
from webapp.rules.rule import Rule
from webapp.rules.rule_sets import ALL_TENANTS, PLATFORM, Owner, load_of_tenants, read_rules
from webapp.rules.service import find_tenant, get_rule, slug_of
from webapp.rules.simulation.history import PastAccess, read_history
from webapp.rules.simulation.replay import (
    DRAFT,
    ApplicableRules,
    Budget,
    Proposal,
    Replay,
    replay,
)
from webapp.scope.decision import NamedRule

IN_REQUEST = Budget(events=5_000, seconds=1.0)
BEYOND_REQUEST = Budget(events=200_000, seconds=20.0)
"""The budget of a task or a command. A task has to end before its broker delivers it again."""


@dataclass(frozen=True)
class DescribedAccess:
    """An access that a client describes, to try a rule on."""

    email: str
    surface: str
    reason: str
    roles: tuple[str, ...] = ()
    mfa: bool = False
    ticket: str | None = None
    ip: str | None = None
    at: datetime | None = None
    """`None`: now."""
    tenant: str | None = None
    """`None` for all tenants."""

    @property
    def request(self) -> AuthorizationRequest:
        return AuthorizationRequest(
            email=self.email,
            roles=frozenset(self.roles),
            mfa=self.mfa,
            surface=self.surface,
            reason=self.reason,
            ticket=self.ticket,
            ip=self.ip,
        )


@dataclass(frozen=True)
class DecisionView:
    """The part of a decision that the scope may see."""

    effect: Ruling
    explanation: str
    named: tuple[NamedRule, ...]
    """The rules that the explanation names."""
    rule_ids: tuple[UUID, ...]
    excluded_count: int | None
    """How many tenants are left out. A tenant's scope sees neither this nor their ids: `None`."""
    excluded_tenant_ids: tuple[UUID, ...] | None
    excluded: bool | None
    """Whether an access to all tenants leaves out the scope's tenant; `None` if not applicable."""


@dataclass(frozen=True)
class Comparison:
    """The decisions on a described access, without the proposal and with it."""

    before: DecisionView
    after: DecisionView


@dataclass(frozen=True)
class Simulation:
    """The result of a simulation: either on a described access, or on past accesses."""

    access: Comparison | None = None
    past: Replay | None = None


def propose(scope: Scope, draft: Mapping[str, Any] | None, replaces: UUID | None) -> Proposal:
    """Make a proposal: add the draft, replace a rule by it, or without a draft remove the rule.

    Raises `NotFound` for a rule that the scope does not see, and `Invalid`.
    """
    old = None if replaces is None else get_rule(replaces)
    if draft is None:
        if old is None:
            raise _invalid("rule", "is required unless a rule is removed")
        return Proposal(_tenant_id(scope, old.tenant, "replaces"), old.id, None)
    tenant = draft["tenant"] if "tenant" in draft else _owner(scope, old)
    tenant_id = _tenant_id(scope, tenant, "rule.tenant")
    if old is not None and old.tenant != tenant:
        raise _invalid("replaces", "is a rule of another owner than the draft")
    rule = rule_of_draft(draft, old.id if old else DRAFT, tenant)
    return Proposal(tenant_id, replaces, rule)


def simulate_access(scope: Scope, proposal: Proposal, access: DescribedAccess) -> Comparison:
    """Decide a described access without the proposal and with it."""
    own = scope.tenant_id if isinstance(scope, TenantScope) else None
    everywhere = access.tenant is None
    if everywhere:
        owner = ALL_TENANTS if own is None else Owner(own)
    else:
        owner = Owner(_tenant_id(scope, access.tenant, "access.tenant"))
    before = ApplicableRules(
        read_rules(PLATFORM, access.surface), read_rules(owner, access.surface)
    )
    is_concerned = everywhere or proposal.tenant_id in (None, owner.tenant_id)
    after = before.changed_by(proposal, access.surface) if is_concerned else before
    at = access.at or datetime.now(UTC)
    verdicts = [r.decide(access.request, at, everywhere=everywhere) for r in (before, after)]
    return Comparison(*(_view(verdict, access.request, own, everywhere) for verdict in verdicts))


def simulate_history(proposal: Proposal, days: int, budget: Budget) -> Replay:
    """Replay the accesses of the last days that the session's scope sees."""
    since = datetime.now(UTC) - timedelta(days=days)
    return replay(read_history(since), proposal, _RuleReader(proposal), since, budget)


class _RuleReader:
    """Reads the rules that a replay needs, and no other tenants' rules.

    The rules of all tenants among the next accesses are read at once, since the ledger may name
    thousands of tenants. The platform's rules and those of the proposal's owner are read alone.
    """

    def __init__(self, proposal: Proposal) -> None:
        self._read_alone = (None, proposal.tenant_id)
        self._asked: set[tuple[str, UUID]] = set()
        """By surface and tenant, what was asked for. A replay asks for each once."""
        self._expected: dict[str, set[UUID]] = {}
        self._others: dict[tuple[str, UUID], list[Candidate]] = {}

    def expect(self, accesses: Sequence[PastAccess]) -> None:
        self._expected.clear()
        self._others.clear()
        for access in accesses:
            surface, tenant_id = access.request.surface, access.tenant_id
            if tenant_id is not None and (surface, tenant_id) not in self._asked:
                self._expected.setdefault(surface, set()).add(tenant_id)

    def __call__(self, tenant_id: UUID | None, surface: str) -> RuleSet:
        if tenant_id is None or tenant_id in self._read_alone:
            return read_rules(Owner(tenant_id), surface)
        self._asked.add((surface, tenant_id))
        expected = self._expected.pop(surface, None)
        if expected:
            for candidate in load_of_tenants(surface, expected):
                if candidate.tenant_id is not None:
                    key = (surface, candidate.tenant_id)
                    self._others.setdefault(key, []).append(candidate)
        candidates = self._others.pop((surface, tenant_id), None)
        return NO_RULES if candidates is None else prepare_within_budget(candidates)


def _owner(scope: Scope, old: Rule | None) -> str | None:
    """The slug of the owner of a draft that names none; `None` for the platform."""
    if old is not None:
        return old.tenant
    return slug_of(scope.tenant_id) if isinstance(scope, TenantScope) else None


def _tenant_id(scope: Scope, slug: str | None, field: str) -> UUID | None:
    """The tenant with this slug; `None` for the platform."""
    if slug is None:
        if isinstance(scope, TenantScope):
            raise _invalid(field, "must be the tenant of the scope")
        return None
    found = find_tenant(slug)
    if found is None:
        raise _invalid(field, "is not a tenant that you can see")
    return found


def _invalid(field: str, problem: str) -> Invalid:
    return Invalid(f"The simulation's {field} {problem}.", {field: [problem]})


def _view(
    verdict: Verdict, request: AuthorizationRequest, own: UUID | None, everywhere: bool
) -> DecisionView:
    """The view of a verdict.

    A tenant sees neither the names of the platform's rules nor which other tenants are left out.
    """
    excluded = verdict.excluded
    allowed = verdict.ruling == "allowed"
    if own is None:
        count, ids, is_left_out = len(excluded.tenants), excluded.ids, None
        explanation = explain(verdict, request)
    else:
        count, ids = None, None
        is_left_out = own in excluded.tenants if everywhere and allowed else None
        explanation = explain(_without_platform_names(verdict), request)
    return DecisionView(
        effect=verdict.ruling,
        explanation=explanation.sentence,
        named=explanation.named,
        rule_ids=tuple(candidate.id for candidate in verdict.decided_by),
        excluded_count=count,
        excluded_tenant_ids=ids,
        excluded=is_left_out,
    )


def _without_platform_names(verdict: Verdict) -> Verdict:
    decided_by = (
        replace(c, rule=replace(c.rule, name="…")) if c.rule and c.tenant_id is None else c
        for c in verdict.decided_by
    )
    return replace(verdict, decided_by=tuple(decided_by))
