"""Export and import of rules: find rules for a file, plan an import, and carry it out.

Functions here run in the session's scope and do not commit.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Row, func, or_, select

from webapp.db.scopes import Scope
from webapp.extensions import db
from webapp.http.errors import AppError, Conflict, NotFound, Stale
from webapp.identity.models import Tenant
from webapp.rules import service
from webapp.rules.files.format import (
    BadFile,
    RuleFile,
    RuleFileEntry,
    place_of,
    wire_of,
    wire_of_draft,
)
from webapp.rules.mapping import candidate_of
from webapp.rules.models import RuleRow
from webapp.rules.quotas import within_quotas
from webapp.rules.rule import Rule

Kind = Literal["created", "changed", "deleted"]

_TAKE_TURNS = 3_318_207_745_910_262_441
"""The key of an advisory lock, so that imports run one after the other."""


@dataclass(frozen=True)
class Difference:
    """A changed field, with its values as on the wire."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Step:
    """What an import does to one rule."""

    kind: Kind
    tenant: str | None
    name: str
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Creation:
    """A rule to add."""

    entry: RuleFileEntry

    @property
    def step(self) -> Step:
        return Step("created", *self.entry.key)


@dataclass(frozen=True)
class Amendment:
    """A rule to change."""

    entry: RuleFileEntry
    rule: Rule
    differences: tuple[Difference, ...]

    @property
    def step(self) -> Step:
        return Step("changed", *self.entry.key, self.differences)

    @property
    def changes(self) -> Mapping[str, Any]:
        return {d.field: self.entry.draft[d.field] for d in self.differences}


@dataclass(frozen=True)
class Deletion:
    """A rule to delete."""

    rule: Rule

    @property
    def step(self) -> Step:
        return Step("deleted", self.rule.tenant, self.rule.name)


@dataclass(frozen=True)
class Plan:
    """The changes that make the stored rules those of a file."""

    creations: tuple[Creation, ...]
    amendments: tuple[Amendment, ...]
    deletions: tuple[Deletion, ...]
    unchanged: int

    @property
    def steps(self) -> tuple[Step, ...]:
        return (
            *(creation.step for creation in self.creations),
            *(amendment.step for amendment in self.amendments),
            *(deletion.step for deletion in self.deletions),
        )


def find_rules(owners: Collection[str | None] | None = None) -> list[Rule]:
    """Find the rules of these owners, or of all. Tenants are named by slug, the platform is `None`.

    Raises `NotFound` for an unknown tenant, and `Conflict` if a rule cannot be read.
    """
    statement = (
        select(RuleRow, Tenant.slug)
        .outerjoin(Tenant, Tenant.id == RuleRow.tenant_id)
        .where(RuleRow.deleted_at.is_(None))
        .order_by(RuleRow.id)
    )
    if owners is not None:
        slugs = {owner for owner in owners if owner is not None}
        unknown = slugs - set(db.session.scalars(select(Tenant.slug).where(Tenant.slug.in_(slugs))))
        if unknown:
            raise NotFound(f"There is no tenant {min(unknown)}.")
        conditions = [Tenant.slug.in_(slugs), *([RuleRow.tenant_id.is_(None)] * (None in owners))]
        statement = statement.where(or_(*conditions))
    return [_readable(row, slug) for row, slug in db.session.execute(statement)]


def plan_import(file: RuleFile, *, prune: bool) -> Plan:
    """Plan an import. A rule is identified by its owner and name.

    `prune` also deletes the rules that the file lacks, of each owner that it names.
    """
    existing = {(rule.tenant, rule.name): rule for rule in find_rules(file.owners)}
    creations, amendments, unchanged = [], [], 0
    for entry in file.entries:
        rule = existing.pop(entry.key, None)
        if rule is None:
            creations.append(Creation(entry))
        elif differences := tuple(_differences(rule, entry)):
            amendments.append(Amendment(entry, rule, differences))
        else:
            unchanged += 1
    deletions = tuple(map(Deletion, existing.values())) if prune else ()
    return Plan(tuple(creations), tuple(amendments), deletions, unchanged)


def carry_out(scope: Scope, plan: Plan, by: str) -> None:
    """Carry out a whole plan, or raise.

    Raises `BadFile` if a change is refused, and `Stale` if a rule has changed since the plan was
    made. Rules are deleted last, so that their replacements exist before. So a tenant's quotas are
    checked once, after all changes.
    """
    _lock(plan)
    with ExitStack() as quotas:
        for tenant_id, slug in find_tenants(plan):
            quotas.enter_context(_errors_at(place_of(slug)))
            quotas.enter_context(within_quotas(tenant_id))
        _carry_out(scope, plan, by)


def find_tenants(plan: Plan) -> Sequence[Row[UUID, str]]:
    """The ids and slugs of the tenants whose rules a plan changes."""
    slugs = {step.tenant for step in plan.steps if step.tenant is not None}
    return db.session.execute(
        select(Tenant.id, Tenant.slug).where(Tenant.slug.in_(slugs)).order_by(Tenant.id)
    ).all()


def _carry_out(scope: Scope, plan: Plan, by: str) -> None:
    for creation in plan.creations:
        entry = creation.entry
        with _errors_at(entry.place):
            service.create_rule(scope, {**entry.draft, "tenant": entry.tenant}, by)
    for amendment in plan.amendments:
        rule = amendment.rule
        with _errors_at(amendment.entry.place):
            service.update_rule(rule.id, _unchanged_since(rule), amendment.changes, by)
    for deletion in plan.deletions:
        rule = deletion.rule
        with _errors_at(f"{rule.tenant or 'the platform'}'s rule {rule.name!r}"):
            service.delete_rule(rule.id, _unchanged_since(rule), by)


def _lock(plan: Plan) -> None:
    """Lock all rules of a plan before the first change.

    Imports take turns, and a request locks only one rule. So an import cannot deadlock.
    """
    db.session.execute(select(func.pg_advisory_xact_lock(_TAKE_TURNS)))
    ids = [change.rule.id for change in plan.amendments]
    ids += [deletion.rule.id for deletion in plan.deletions]
    db.session.execute(
        select(RuleRow.id).where(RuleRow.id.in_(ids)).order_by(RuleRow.id).with_for_update()
    )


@contextmanager
def _errors_at(place: str) -> Iterator[None]:
    """Name the place in the file when a change is refused."""
    try:
        yield
    except Stale:
        raise
    except AppError as error:
        raise BadFile([f"{place}: {error}"]) from error


def _unchanged_since(rule: Rule) -> Callable[[int], None]:
    def check(version: int) -> None:
        if version != rule.version:
            raise Stale(f"The rule {rule.id} was changed meanwhile; try again.")

    return check


def _differences(rule: Rule, entry: RuleFileEntry) -> Iterator[Difference]:
    after = wire_of_draft(entry.draft, entry.tenant)
    for name, before in wire_of(rule).items():
        if before != after[name]:
            yield Difference(name, before, after[name])


def _readable(row: RuleRow, slug: str | None) -> Rule:
    rule = candidate_of(row, slug).rule
    if rule is None:
        raise Conflict(f"The rule {row.id} cannot be read: see `flask rules check`.")
    return rule
