"""Decisions for other services: each question is decided once, recorded once, and answered with the
same bytes however often it is question.

The answer and the key that it was asked with are committed together, after the access's record is
on disk. So a stored answer always has its record. A process that dies before it has stored one
leaves a record that says so; the service asks again, and that is decided anew.
"""

from dataclasses import replace
from functools import partial
from hashlib import sha256
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.dialects.postgresql import insert

from webapp.audit.event import Ruling
from webapp.audit.recorder import ExternalAccess
from webapp.db.scopes import Exclusion
from webapp.decisions.break_glass import use_break_glass
from webapp.decisions.decide import authorization_request, decide_elevation
from webapp.elevations.elevation import (
    Answer,
    Elevation,
    ElevationRequest,
    Excluded,
    ExcludedTenant,
    Person,
)
from webapp.elevations.models import ElevationRow
from webapp.elevations.schemas import KEY_HEADER, ElevationSchema
from webapp.extensions import db
from webapp.http.errors import Conflict
from webapp.identity import lookup
from webapp.identity.models import Tenant
from webapp.identity.principal import Principal
from webapp.scope.decision import (
    ALL_TENANTS_TARGET,
    Allowed,
    Decision,
    Denied,
    NeedsApproval,
    RulesOutcome,
    Surface,
    Target,
    TenantTarget,
)
from webapp.scope.enter import ASK, begin_access

_AT_HOME = Elevation(
    decision="allowed",
    elevated=False,
    explanation="It is their own tenant.",
    rules=(),
    excluded=Excluded(0, ()),
    grants=(),
    minutes=None,
    ask=None,
    receipt=None,
    policy_version=None,
)


def answer(service: Principal, key: str, body: bytes, question: ElevationRequest) -> Answer:
    """What the service is told of `question`, and was told if it has asked with this key before.

    Raises `Conflict` where the key is that of another question. `body` is the question as it came.
    """
    digest = _digest(body)
    # Before it is decided: using break-glass is more than a question.
    if (known := _find(service, key, digest)) is not None:
        return known
    person, is_known = _person(question.principal, service)
    target = _target(person, question.tenant)
    decision = _decide(person, target, question, is_known=is_known)
    if not _claim(service, key, digest):
        # Its twin has committed meanwhile: until then the insert has waited.
        known = _find(service, key, digest)
        assert known is not None  # noqa: S101 - no row of these is ever deleted
        return known
    elevation = _AT_HOME if decision is None else _record(person, target, question, decision)
    said = orjson.dumps(ElevationSchema().dump(elevation))
    db.session.execute(
        update(ElevationRow).where(_asked_by(service, key)).values(answer=said.decode())
    )
    return Answer(said, replayed=False)


def _digest(body: bytes) -> bytes:
    """The same for the same JSON, however it is written."""
    return sha256(orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)).digest()


def _find(service: Principal, key: str, digest: bytes) -> Answer | None:
    found = db.session.execute(
        select(ElevationRow.digest, ElevationRow.answer).where(_asked_by(service, key))
    ).one_or_none()
    if found is None:
        return None
    if found.digest != digest:
        problem = "is that of another question"
        raise Conflict(f"The key {problem}.", {KEY_HEADER: [problem]})
    return Answer(found.answer.encode(), replayed=True)


def _claim(service: Principal, key: str, digest: bytes) -> bool:
    """Whether this is the transaction that answers; waits for one that may."""
    values = {"service_id": service.id, "key": key, "digest": digest}
    claimed = insert(ElevationRow).values(values).on_conflict_do_nothing()
    return db.session.scalar(claimed.returning(ElevationRow.key)) is not None


def _asked_by(service: Principal, key: str) -> ColumnElement[bool]:
    return (ElevationRow.service_id == service.id) & (ElevationRow.key == key)


def _person(described: Person, service: Principal) -> tuple[Principal, bool]:
    """Whoever it is, and whether Sightline knows them. A stranger has no role anywhere, but rules
    may name the address."""
    found = lookup.find_principal(described.email, service.token_id, mfa=described.mfa)
    if found is not None:
        return found, True
    email = described.email.lower()
    stranger = Principal(
        id=uuid5(NAMESPACE_URL, f"mailto:{email}"),
        email=email,
        platform_roles=frozenset(),
        memberships=(),
        token_id=service.token_id,
        expires_at=None,
        mfa=described.mfa,
    )
    return stranger, False


def _target(person: Principal, slug: str | None) -> Target:
    if slug is None:
        return ALL_TENANTS_TARGET
    own = person.membership(slug)
    return TenantTarget(own.tenant_id if own else lookup.find_tenant_id(slug), slug)


def _decide(
    person: Principal, target: Target, question: ElevationRequest, *, is_known: bool
) -> Decision | None:
    """`None` in their own tenant. What they may do there, the service knows."""
    if isinstance(target, TenantTarget) and person.membership(target.slug) is not None:
        return None
    request = authorization_request(person, question.surface, question.reason, question.ip)
    decision = decide_elevation(target, person.id if is_known else None, request)
    if person.ended and isinstance(decision, (Allowed, NeedsApproval)) and decision.outcome:
        # Rules may name the address of a user who has ended.
        return _denied("The user has ended.", decision.outcome)
    if not isinstance(decision, Allowed) or decision.outcome is None:
        return decision
    outcome = decision.outcome
    if isinstance(target, TenantTarget) and target.tenant_id is None:
        return _denied("There is no such tenant.", outcome)
    if not outcome.needs_break_glass:
        return decision
    if not is_known:
        return _denied("Only somebody whom Sightline knows can use break-glass.", outcome)
    begin = partial(begin_access, external=ExternalAccess(question.ip))
    return use_break_glass(person, target, question.reason, outcome, begin)


def _denied(explanation: str, outcome: RulesOutcome) -> Denied:
    return Denied(explanation, replace(outcome, explanation=explanation))


def _record(
    person: Principal, target: Target, question: ElevationRequest, decision: Decision
) -> Elevation:
    surface = Surface(question.surface, tenant_roles=frozenset(), platform_roles=frozenset())
    ruling, outcome = _ruling(decision)
    receipt = begin_access(
        person, surface, target, question.reason, decision, ExternalAccess(question.ip)
    )
    return Elevation(
        decision=ruling,
        elevated=True,
        explanation=outcome.explanation,
        rules=outcome.rules,
        excluded=_excluded(outcome.excluded),
        grants=outcome.grants,
        minutes=outcome.minutes,
        ask=ASK if ruling == "approval_required" else None,
        receipt=receipt,
        policy_version=outcome.policy_version,
    )


def _ruling(decision: Decision) -> tuple[Ruling, RulesOutcome]:
    match decision:
        case Allowed(RulesOutcome() as outcome):
            return "allowed", outcome
        case NeedsApproval(outcome):
            return "approval_required", outcome
        case Denied(_, RulesOutcome() as outcome):
            return "denied", outcome
    raise TypeError(decision)


def _excluded(exclusion: Exclusion) -> Excluded:
    ids: list[UUID] = list(exclusion.ids)
    if not ids:
        return Excluded(0, ())
    named = select(Tenant.id, Tenant.slug).where(Tenant.id.in_(ids)).order_by(Tenant.slug)
    found = db.session.execute(named)
    return Excluded(len(ids), tuple(ExcludedTenant(tenant_id, slug) for tenant_id, slug in found))
