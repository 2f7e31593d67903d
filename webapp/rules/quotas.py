"""Quotas: how many rules a tenant may have, and how many conditions these may have together.

An access to all tenants evaluates the rules of each of them, so what one tenant writes costs
everybody. A tenant that is above a quota already keeps its rules, and may change them as long as it
does not get further above it. The platform has no quota.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Text, case, cast, func, literal, select

from webapp.extensions import db
from webapp.http.errors import Conflict
from webapp.rules.models import RuleRow

MAX_RULES = 200
MAX_CONDITIONS = 1_000
"""The entries of all lists of all rules of a tenant that are not deleted."""

_CHANGING = "rules.quotas"
"""Key in a session's info: the tenants whose quotas are checked when an outer block ends."""


class Usage(NamedTuple):
    """What a tenant has of what the quotas limit."""

    rules: int
    conditions: int


LIMITS = Usage(MAX_RULES, MAX_CONDITIONS)


@contextmanager
def within_quotas(tenant_id: UUID | None) -> Iterator[None]:
    """Change rules of an owner in the block. Raises `Conflict` if it then exceeds a quota.

    Another transaction that changes rules of the same tenant waits until this one has ended. Of
    nested blocks for one tenant, only the outer one checks. Enter a block before rules are
    inserted or changed, and after they are locked.
    """
    changing: set[UUID] = db.session.info.setdefault(_CHANGING, set())
    if tenant_id is None or tenant_id in changing:
        yield
        return
    _take_turns(tenant_id)
    before = read_usage(tenant_id)
    changing.add(tenant_id)
    try:
        yield
    finally:
        changing.remove(tenant_id)
    _refuse_more(before, read_usage(tenant_id))


def read_usage(tenant_id: UUID) -> Usage:
    """Count a tenant's rules that are not deleted, and their conditions."""
    counts = select(func.count(), func.coalesce(func.sum(conditions_of_row()), 0)).where(
        RuleRow.tenant_id == tenant_id, RuleRow.deleted_at.is_(None)
    )
    rules, conditions = db.session.execute(counts).one()
    return Usage(rules, conditions)


def conditions_of_row() -> ColumnElement[int]:
    """The number of entries of a rule's lists. A list that is none counts nothing."""
    arrays = (RuleRow.surfaces, RuleRow.reasons, RuleRow.networks)
    documents = (RuleRow.subjects["roles"], RuleRow.subjects["users"], RuleRow.windows)
    counts = [
        *map(func.cardinality, arrays),
        *(
            case(
                (func.jsonb_typeof(document) == "array", func.jsonb_array_length(document)), else_=0
            )
            for document in documents
        ),
    ]
    return sum(counts[1:], start=counts[0])


def _refuse_more(before: Usage, after: Usage) -> None:
    nouns = ("rules", "entries in the lists of its rules")
    for noun, limit, was, now in zip(nouns, LIMITS, before, after, strict=True):
        if now > limit and now > was:
            problem = f"A tenant may have {limit} {noun}. This tenant would have {now}."
            raise Conflict(problem, {"rule": [problem]})


def _take_turns(tenant_id: UUID) -> None:
    """Let one transaction at a time change the tenant's rules, so that it sees earlier changes."""
    key = func.hashtextextended(cast(literal(f"rules:{tenant_id}"), Text), 0)
    db.session.execute(select(func.pg_advisory_xact_lock(key)))
