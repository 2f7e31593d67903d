"""Decisions for other services.

Each question is decided once and recorded once. However often a service repeats a question, it gets
the same bytes.

The answer is committed together with the service's key for the question, after the access's record
is on disk. So every stored answer has a record. If a process dies before it has stored the answer,
the record says that the access was interrupted. When the service asks again, the question is
decided anew.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.dialects.postgresql import insert

from webapp.audit.event import Ruling, Via
from webapp.audit.recorder import ExternalAccess
from webapp.db.scopes import Exclusion
from webapp.decisions.break_glass import use_break_glass
from webapp.decisions.decide import authorization_request, decide_elevation
from webapp.elevations.bindings import find_refusals
from webapp.elevations.elevation import (
    Elevation,
    ElevationRequest,
    Excluded,
    ExcludedTenant,
    Person,
    StoredAnswer,
)
from webapp.elevations.models import ElevationRow
from webapp.elevations.schemas import KEY_HEADER, ElevationSchema
from webapp.extensions import db
from webapp.http.errors import Expired, Invalid, NotBound
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

LONGEST = timedelta(days=1)
"""How long an answer holds at most. Then the service has to ask again."""

MINUTE = timedelta(minutes=1)


def answer(service: Principal, key: str, body: bytes, question: ElevationRequest) -> StoredAnswer:
    """Decide and record `question`, or return the answer that is stored under this key.

    `body` is the question as the service sent it. Raises `NotBound` if the service's token does not
    let it ask that, `Invalid` if the key belongs to another question, and `Expired` if the stored
    answer has ended.
    """
    _refuse_unbound(service, question)
    digest = _digest(body)
    # Ask for a stored answer first: deciding a question may open a break-glass incident.
    if (stored := _find(service, key, digest)) is not None:
        return stored
    person, is_known = _person(question.principal)
    target = _target(person, question.tenant, service)
    external = ExternalAccess(question.ip, _via(service))
    decision = _decide(person, target, question, external, is_known=is_known)
    if not _claim(service, key, digest):
        # A concurrent request with the same key has committed: the insert has waited for it.
        stored = _find(service, key, digest)
        assert stored is not None  # noqa: S101 - no row of this table is ever deleted
        return stored
    if _is_over(decision):
        # What it rests on has ended while it waited for the key.
        db.session.rollback()
        return answer(service, key, body, question)
    elevation = _record(person, target, question, external, decision)
    answer_body = orjson.dumps(ElevationSchema().dump(elevation))
    db.session.execute(
        update(ElevationRow).where(_stored_under(service, key)).values(answer=answer_body.decode())
    )
    return StoredAnswer(answer_body, replayed=False)


def _refuse_unbound(service: Principal, question: ElevationRequest) -> None:
    tenant_id = (
        None if question.tenant is None else lookup.find_tenant_id(question.tenant, service.id)
    )
    refusals = find_refusals(service.bindings, question, tenant_id)
    if refusals:
        raise NotBound("Your token is not bound to what you ask.", refusals)


def _digest(body: bytes) -> bytes:
    """A digest that does not depend on white space or on the order of keys."""
    return sha256(orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)).digest()


def _find(service: Principal, key: str, digest: bytes) -> StoredAnswer | None:
    found = db.session.execute(
        select(ElevationRow.digest, ElevationRow.answer).where(_stored_under(service, key))
    ).one_or_none()
    if found is None:
        return None
    if found.digest != digest:
        problem = "belongs to another question"
        raise Invalid(f"The key {problem}.", {KEY_HEADER: [problem]})
    if _has_expired(orjson.loads(found.answer)):
        raise Expired("What the answer allowed has ended. Ask again, with another key.")
    return StoredAnswer(found.answer.encode(), replayed=True)


def _has_expired(stored: Mapping[str, Any]) -> bool:
    """Whether what a stored answer allowed has ended. One that allows nothing does not end."""
    if stored["decision"] != "allowed":
        return False
    return datetime.fromisoformat(stored["until"]) <= datetime.now(UTC)


def _claim(service: Principal, key: str, digest: bytes) -> bool:
    """Reserve the key, and say whether this transaction has it.

    Waits for a concurrent transaction that has reserved the same key.
    """
    values = {"service_id": service.id, "key": key, "digest": digest}
    claimed = insert(ElevationRow).values(values).on_conflict_do_nothing()
    return db.session.scalar(claimed.returning(ElevationRow.key)) is not None


def _stored_under(service: Principal, key: str) -> ColumnElement[bool]:
    return (ElevationRow.service_id == service.id) & (ElevationRow.key == key)


def _via(service: Principal) -> Via:
    return Via(email=service.email, id=service.id, token_id=service.token_id)


def _person(described: Person) -> tuple[Principal, bool]:
    """The person as a principal, and whether Sightline knows them.

    A stranger holds no role, but rules may name their e-mail address.
    """
    found = lookup.find_principal(described.email, mfa=described.mfa)
    if found is not None:
        return found, True
    email = described.email.lower()
    stranger = Principal(
        id=uuid5(NAMESPACE_URL, f"mailto:{email}"),
        email=email,
        platform_roles=frozenset(),
        memberships=(),
        token_id=None,
        expires_at=None,
        mfa=described.mfa,
    )
    return stranger, False


def _target(person: Principal, slug: str | None, service: Principal) -> Target:
    if slug is None:
        return ALL_TENANTS_TARGET
    own = person.membership(slug)
    return TenantTarget(own.tenant_id if own else lookup.find_tenant_id(slug, service.id), slug)


def _decide(
    person: Principal,
    target: Target,
    question: ElevationRequest,
    external: ExternalAccess,
    *,
    is_known: bool,
) -> Decision:
    """Decide the question.

    What somebody may do in their own tenant is the service's business: that is allowed, without an
    outcome of rules.
    """
    if isinstance(target, TenantTarget) and person.membership(target.slug) is not None:
        return Allowed()
    request = authorization_request(person, question.surface, question.reason, question.ip)
    decision = decide_elevation(target, person.id if is_known else None, request)
    if person.ended and isinstance(decision, (Allowed, NeedsApproval)) and decision.outcome:
        # Rules may still name the address of a user who has ended.
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
    begin = partial(begin_access, external=external)
    return use_break_glass(person, target, question.reason, outcome, begin)


def _denied(explanation: str, outcome: RulesOutcome) -> Denied:
    return Denied(explanation, replace(outcome, explanation=explanation, named=()))


def _is_over(decision: Decision) -> bool:
    """Whether what an allowing decision rests on has ended since it was made."""
    if not isinstance(decision, Allowed) or decision.outcome is None:
        return False
    return decision.outcome.until is not None and decision.outcome.until <= datetime.now(UTC)


def _validity(outcome: RulesOutcome) -> tuple[datetime, int]:
    """When what an answer of this moment allows ends, and the whole minutes until then."""
    now = datetime.now(UTC)
    longest = LONGEST if outcome.minutes is None else min(LONGEST, outcome.minutes * MINUTE)
    until = min(now + longest, outcome.until or now + longest)
    return until, (until - now) // MINUTE


def _record(
    person: Principal,
    target: Target,
    question: ElevationRequest,
    external: ExternalAccess,
    decision: Decision,
) -> Elevation:
    """Record that the question is answered, and make the answer.

    An answer about the person's own tenant is recorded too: it tells the service who is a member.
    """
    surface = Surface(question.surface, tenant_roles=frozenset(), platform_roles=frozenset())
    ruling, outcome = _ruling(decision)
    receipt = begin_access(person, surface, target, question.reason, decision, external)
    until, minutes = _validity(outcome) if ruling == "allowed" else (None, None)
    return Elevation(
        decision=ruling,
        elevated=decision != Allowed(),
        explanation=outcome.explanation,
        named=outcome.named,
        rules=outcome.rules,
        excluded=_excluded(outcome.excluded),
        grants=outcome.grants,
        until=until,
        minutes=minutes,
        ask=ASK if ruling == "approval_required" else None,
        receipt=receipt,
        policy_version=outcome.policy_version,
    )


def _ruling(decision: Decision) -> tuple[Ruling, RulesOutcome]:
    match decision:
        case Allowed(None):
            return "allowed", RulesOutcome("It is the person's own tenant.")
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
