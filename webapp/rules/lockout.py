"""Protection against lockout: some owner can always change the platform's rules."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import func, select

from webapp.extensions import db
from webapp.http.errors import Conflict
from webapp.rules.engine.evaluate import NO_RULES, Candidate, decide, prepare
from webapp.rules.engine.request import AuthorizationRequest
from webapp.rules.engine.templates import BREAK_GLASS
from webapp.rules.mapping import candidate_of
from webapp.rules.models import RuleRow
from webapp.scope.headers import REASON_CODES

ADMINISTRATION = tuple(
    f"admin.rules.{use}" for use in ("list", "read", "create", "update", "delete")
)
_TAKE_TURNS = 5_741_639_220_415_837_002
"""The key of an advisory lock, so that a change sees the result of every earlier one."""


def refuse_lockout(changed: RuleRow) -> None:
    """Raise `Conflict` if after the flushed change no owner can administer the platform's rules."""
    if changed.tenant_id is not None:
        return
    db.session.execute(select(func.pg_advisory_xact_lock(_TAKE_TURNS)))
    if not are_mendable():
        problem = "This would leave no rule that lets an owner administer the platform's rules."
        raise Conflict(problem, {"rule": [problem]})


def are_mendable() -> bool:
    """Whether some owner can change the platform's rules that the session's scope sees."""
    rows = db.session.scalars(
        select(RuleRow)
        .where(RuleRow.tenant_id.is_(None), RuleRow.deleted_at.is_(None), RuleRow.enabled)
        .where(RuleRow.surfaces.overlap(["*", "admin.*", "admin.rules.*", *ADMINISTRATION]))
    )
    return can_be_mended([candidate_of(row, None) for row in rows], datetime.now(UTC))


def can_be_mended(candidates: Iterable[Candidate], at: datetime) -> bool:
    """Whether some owner can change the platform's rules alone, without a ticket.

    It counts only if it is possible from any address, at any time, and without an end.
    """
    rules = prepare(_standing(candidates, at))
    return any(
        all(
            decide(rules, NO_RULES, _owner(surface, reason), at, everywhere=True).ruling
            == "allowed"
            for surface in ADMINISTRATION
        )
        for reason in REASON_CODES
        if reason != BREAK_GLASS
    )


def _standing(candidates: Iterable[Candidate], at: datetime) -> Iterator[Candidate]:
    """The rules that count for good: what is allowed now, and what is denied now or later.

    A rule that denies only for a time or in some networks locks nobody out for good.
    """
    for candidate in candidates:
        rule = candidate.rule
        if rule is None:
            yield candidate
        elif not (rule.windows or rule.networks or rule.ends_at):
            if rule.effect != "allow":
                yield replace(candidate, rule=replace(rule, starts_at=None))
            elif rule.starts_at is None or rule.starts_at <= at:
                yield candidate


def _owner(surface: str, reason: str) -> AuthorizationRequest:
    return AuthorizationRequest(
        email="",
        roles=frozenset({"owner"}),
        mfa=True,
        surface=surface,
        reason=reason,
        ticket=None,
        ip=None,
    )
