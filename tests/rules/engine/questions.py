"""A rule and an access that tests vary, and the engine's verdict on them."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from webapp.rules.engine.evaluate import Candidate, GrantMatch, Verdict, decide, prepare
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.rule import Rule, Subjects

SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC)

RULE = Rule(
    id=UUID(int=0),
    tenant=None,
    name="A rule",
    description="",
    effect="allow",
    subjects=Subjects((), ()),
    surfaces=("*",),
    reasons=(),
    ticket=None,
    windows=(),
    networks=(),
    mfa=False,
    max_minutes=None,
    min_approvals=1,
    approver_roles=(),
    enabled=True,
    starts_at=None,
    ends_at=None,
    version=1,
    created_at=SOME_DAY,
    created_by="owner@example.org",
    updated_at=SOME_DAY,
    updated_by="owner@example.org",
)
"""A rule that allows everything to everybody. Tests replace some of its fields."""

ACCESS = AuthorizationRequest(
    email="sue@example.org",
    roles=frozenset({"support"}),
    mfa=False,
    surface="admin.rules.list",
    reason="incident",
    ticket=None,
    ip="192.0.2.7",
)

ACME, GLOBEX = UUID(int=1), UUID(int=2)
SLUGS = {None: None, ACME: "acme", GLOBEX: "globex"}
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
GRANT = GrantMatch(UUID(int=99), NOON + timedelta(hours=1))
BREAK_GLASS_ACCESS = replace(ACCESS, reason="break_glass")
EVERY_DAY: Any = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ALLOW, DENY, ASK = "allow", "deny", "require_approval"


def rule(effect: str, number: int = 10, *, of: UUID | None = None, **fields: Any) -> Candidate:
    """A rule of the platform or `of` a tenant; it covers every access unless `fields` narrow it."""
    named: dict[str, Any] = {
        "id": UUID(int=number),
        "tenant": SLUGS[of],
        "name": f"{effect} {number}",
    }
    return Candidate(UUID(int=number), of, replace(RULE, **{"effect": effect, **named, **fields}))


def ask(
    *rules: Candidate,
    access: AuthorizationRequest = ACCESS,
    at: datetime = NOON,
    everywhere: bool = False,
    granted: Iterable[Candidate] = (),
) -> Verdict:
    platform = prepare(candidate for candidate in rules if candidate.tenant_id is None)
    tenants = prepare(candidate for candidate in rules if candidate.tenant_id is not None)
    covered = {candidate.id for candidate in granted}
    return decide(
        platform,
        tenants,
        access,
        at,
        everywhere=everywhere,
        find_grant=lambda candidate: GRANT if candidate.id in covered else None,
    )
