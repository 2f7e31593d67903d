"""The worked examples of docs/decisions.md happen: its tables are read, and the engine is asked.

A word that is not known here fails the test, so that the tables say no more than is tested.
"""

import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from tests.processes import ROOT
from tests.rules.engine.questions import NOON
from webapp.decisions.decide import authorization_request, decision_of
from webapp.grants.grant import Approval, Grant, find_grant
from webapp.identity.principal import (
    STAFF_ROLES,
    TENANT_ROLES,
    Membership,
    Principal,
)
from webapp.rules.drafts import rule_of_draft
from webapp.rules.engine.evaluate import Candidate, prepare
from webapp.rules.engine.evaluate import decide as decide_by_rules
from webapp.rules.schemas import RuleDraftSchema
from webapp.scope.decision import (
    Allowed,
    Decision,
    Denied,
    GlobalTarget,
    NeedsApproval,
    NeedsReason,
    RulesOutcome,
    Surface,
    Target,
    TenantTarget,
    decide,
)
from webapp.scope.headers import Reason, RequestedGlobal, parse_reason, parse_scope

SURFACE = "admin.rules.list"
ADDRESS = "192.0.2.7"
PERSON, TOKEN, GRANT = (UUID(int=number) for number in range(101, 104))
TENANTS = {slug: UUID(int=number) for number, slug in enumerate(("acme", "globex", "initech"), 1)}
SLUGS = {tenant_id: slug for slug, tenant_id in TENANTS.items()}
NO_ZONE = "Mars/Olympus"


def _table(header: str) -> list[list[str]]:
    document = (ROOT / "docs" / "decisions.md").read_text()
    _, after = document.split(f"\n| {header} |\n", 1)
    lines = after.split("\n\n")[0].strip().split("\n")[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@dataclass
class Access:
    """An example's access; what it does not say is as the document says."""

    who: Principal
    target: Target
    reason: Reason | None
    at: datetime = NOON
    ip: str = ADDRESS
    surface: str = SURFACE
    grants: list[Grant] = field(default_factory=list)


@pytest.fixture(scope="module")
def rules() -> dict[str, Candidate]:
    rows = _table("Rule | Whose | Effect | Fields that are not at their default")
    return {row[0]: _candidate(number, *row) for number, row in enumerate(rows, 1)}


def _candidate(number: int, name: str, whose: str, effect: str, says: str) -> Candidate:
    written: dict[str, Any] = {"name": name, "effect": effect, "surfaces": ["*"], "subjects": {}}
    for words in says.split(" · ") if says else ():
        key, *values = _quoted(words).split()
        (written["subjects"] if key in ("roles", "users") else written)[key] = _value(key, values)
    zones = [window["tz"] for window in written.get("windows", ())]
    if NO_ZONE in zones:  # the API lets none be written, but one may be no more
        written["windows"][0]["tz"] = "UTC"
    tenant = None if whose == "platform" else whose
    rule = rule_of_draft(RuleDraftSchema().load(written), UUID(int=number), tenant)
    windows = [replace(window, tz=zone) for window, zone in zip(rule.windows, zones, strict=True)]
    owner = None if tenant is None else TENANTS[tenant]
    return Candidate(rule.id, owner, replace(rule, windows=tuple(windows)))


def _value(key: str, values: list[str]) -> Any:
    """As a client of the API writes it."""
    match key, values:
        case "roles" | "users" | "surfaces" | "reasons" | "networks", [_, *_]:
            return values
        case "windows", [*days, times, zone]:
            begins, ends = times.split("-")
            return [{"days": days, "from": begins, "to": ends, "tz": zone}]
        case "mfa", []:
            return True
        case "max_minutes" | "min_approvals", [number]:
            return int(number)
        case "ticket" | "starts_at" | "ends_at", [value]:
            return value
    raise ValueError(f"{key} {values}")


def _quoted(words: str) -> str:
    found = re.fullmatch(r"`([^`]+)`", words)
    assert found, words
    return found[1]


EXAMPLES = _table("Rules | Access | Decision | Why")


def test_there_are_examples_and_each_rule_is_in_one(rules: dict[str, Candidate]) -> None:
    assert len(EXAMPLES) >= 20
    assert {name for row in EXAMPLES for name in row[0].split(", ")} == {"none", *rules}


@pytest.mark.parametrize("row", EXAMPLES, ids=lambda row: " | ".join(row[:2]))
def test_what_the_document_says_is_decided(
    app: Flask, rules: dict[str, Candidate], row: list[str]
) -> None:
    named, access, decision, why = row
    asked = [] if named == "none" else [rules[name] for name in named.split(", ")]
    decided = _decide(asked, _access(access), _surfaces(app))
    assert _words(decided) == decision
    assert _why(decided) == why


def _surfaces(app: Flask) -> dict[str, Surface]:
    views = app.view_functions.values()
    declared = (getattr(view, "__surface__", None) for view in views)
    return {surface.name: surface for surface in declared if surface is not None}


def _access(text: str) -> Access:
    who, scope, reason, *rest = text.split(" · ")
    access = Access(
        _principal(_quoted(who)),
        _target(_quoted(scope)),
        None if reason == "no reason" else parse_reason(_quoted(reason)),
    )
    for words in sorted(rest):  # "at" before the grants, which are of that time
        _more(access, words)
    return access


def _principal(name: str) -> Principal:
    tenant, _, role = name.rpartition("-")
    assert role in (TENANT_ROLES if tenant else STAFF_ROLES)
    return Principal(
        id=PERSON,
        email=f"{name}@sightline.example",
        platform_roles=frozenset() if tenant else frozenset({role}),  # type: ignore[arg-type]  # known
        memberships=(Membership(TENANTS[tenant], tenant, role),) if tenant else (),  # type: ignore[arg-type]  # the same
        token_id=TOKEN,
        expires_at=None,
    )


def _target(header: str) -> Target:
    wanted = parse_scope(header)
    if isinstance(wanted, RequestedGlobal):
        return GlobalTarget()
    return TenantTarget(TENANTS.get(wanted.slug), wanted.slug)


def _more(access: Access, words: str) -> None:
    if words == "with a second factor":
        access.who = replace(access.who, mfa=True)
        return
    found = re.fullmatch(r"(at|from|on) `([^`]+)`", words)
    match found and found.groups():
        case ("at", moment):
            access.at = datetime.fromisoformat(moment)
        case ("from", ip):
            access.ip = ip
        case ("on", surface):
            access.surface = surface
        case _:
            access.grants.append(_grant(access, words))


def _grant(access: Access, words: str) -> Grant:
    found = re.fullmatch(r"grant `tenant:(\w+)` by ((?:`\w+` ?)+)(?:until `(\S+)`)?", words)
    assert found, words
    slug, approvers, until = found.groups()
    roles = re.findall(r"\w+", approvers)
    assert set(roles) <= {*TENANT_ROLES, *STAFF_ROLES}
    assert access.reason is not None
    begun = access.at - timedelta(hours=1)
    approvals = [
        Approval(UUID(int=number), f"{role}-{number}@sightline.example", (role,), begun)
        for number, role in enumerate(roles, 201)
    ]
    return Grant(
        id=GRANT,
        kind="approval",
        principal_id=access.who.id,
        email=access.who.email,
        tenant_id=TENANTS[slug],
        tenant=slug,
        surfaces=(access.surface,),
        reason=access.reason.code,
        ticket=None,
        note=None,
        minutes=120,
        rule_ids=(),
        state="approved",
        requested_at=begun,
        starts_at=begun,
        ends_at=datetime.fromisoformat(until) if until else begun + timedelta(hours=2),
        closed_at=None,
        closed_by=None,
        reviewed_at=None,
        reviewed_by=None,
        review=None,
        version=1,
        approvals=tuple(approvals),
    )


class _Rules:
    """The rules and grants of the document, as `webapp.decisions` asks those of the database."""

    def __init__(self, candidates: list[Candidate], access: Access) -> None:
        everywhere = isinstance(access.target, GlobalTarget)
        target = access.target.tenant_id if isinstance(access.target, TenantTarget) else None
        self._access, self._everywhere, self._tenant_id = access, everywhere, target
        self._ours = prepare(c for c in candidates if c.tenant_id is None)
        self._theirs = prepare(
            c
            for c in candidates
            if c.tenant_id and (everywhere or c.tenant_id == target) and _narrows(c)
        )

    def decide(
        self, principal: Principal, surface: str, target: Target, reason: Reason, ip: str | None
    ) -> Decision:
        request = authorization_request(principal, surface, reason, ip)
        grants, at = self._access.grants, self._access.at
        verdict = decide_by_rules(
            self._ours,
            self._theirs,
            request,
            at,
            everywhere=self._everywhere,
            find_grant=lambda c: find_grant(grants, c, request, self._tenant_id, at),
        )
        return decision_of(verdict, request, 1)

    def use_break_glass(
        self, principal: Principal, target: Target, reason: Reason, outcome: RulesOutcome
    ) -> Decision:
        return Allowed(outcome)

    def cache_tags(self, target: Target, holder: UUID | None) -> tuple[str, ...]:
        return ()


def _decide(asked: list[Candidate], access: Access, surfaces: dict[str, Surface]) -> Decision:
    rules = _Rules(asked, access)
    surface = surfaces[access.surface]
    return decide(access.who, surface, access.target, access.reason, access.ip, rules)


def _narrows(candidate: Candidate) -> bool:
    return candidate.rule is None or candidate.rule.effect != "allow"


def _words(decision: Decision) -> str:
    match decision:
        case NeedsReason():
            return "reason required"
        case NeedsApproval():
            return "approval required"
        case Denied():
            return "denied"
        case Allowed(None):
            return "own tenant"
        case Allowed(RulesOutcome() as ruled):
            return " · ".join(["allowed", *_terms(ruled)])
    raise TypeError(decision)


def _terms(ruled: RulesOutcome) -> list[str]:
    terms = []
    if ruled.excluded.tenants:
        left_out = sorted(SLUGS[tenant] for tenant in ruled.excluded.tenants)
        terms.append(f"without {', '.join(left_out)}")
    if ruled.grants:
        terms.append("by grant")
    if ruled.needs_break_glass:
        whose = [SLUGS[tenant] if tenant else "the platform" for tenant in ruled.bypassed_approvals]
        terms.append(f"uses break-glass of {', '.join(whose)}")
    if ruled.minutes is not None:
        terms.append(f"{ruled.minutes} minutes")
    return terms


def _why(decision: Decision) -> str:
    match decision:
        case Denied(detail, _):
            return detail
        case NeedsApproval(ruled) | Allowed(RulesOutcome() as ruled):
            return ruled.explanation
    return ""
