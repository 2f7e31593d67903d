"""Rule sets: the rules of one owner that cover a surface, prepared and cached while current.

The rules are found by an index on surfaces, so rules for other surfaces cost nothing. Only the
surface selects them; the engine checks all other conditions. So no rule that could deny is missed.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from threading import Thread
from time import monotonic, sleep
from uuid import UUID

import structlog
from flask import Flask, current_app
from sqlalchemy import ARRAY, ColumnElement, Text, Uuid, and_, cast, func, literal, select

from webapp.caching import CacheGeneration, GenerationCache, SingleFlight, read_generations
from webapp.db.scopes import PolicyScope
from webapp.extensions import db
from webapp.identity.models import Tenant
from webapp.rules.engine.evaluate import Candidate, RuleSet, prepare
from webapp.rules.mapping import candidate_of
from webapp.rules.models import RuleRow
from webapp.rules.narrowing import (
    ALL_CONDITIONS,
    TENANT_CONDITIONS,
    TENANT_RULES,
    Generations,
    NarrowingRules,
    prepare_within_budget,
    unloaded_rules,
)
from webapp.rules.quotas import conditions_of_row
from webapp.rules.rule import ALL_RULES_TAG, TENANT_TAGS, owner_tag, surfaces_covering

_EXTENSION = "sightline.rule_sets"
MAX_CACHED = 1000
MAX_SURFACES = 100
"""How many surfaces have all tenants' rules prepared at most."""

KEPT_CONDITIONS = 3 * ALL_CONDITIONS
"""How many conditions all tenants' rules have together that are kept prepared for all surfaces.
1,000 take 1.4 MB."""

PATIENCE = 5.0
"""Seconds after which a request prepares no further tenants' rules, but leaves them out."""

INTERVAL, IDLE_SHARE = 0.25, 4
"""How many seconds the thread sleeps at least, and how many times as long as it has worked."""

PAUSE_AFTER_ERROR = 5.0

NAMED = 20
"""How many of a tenant's rules are named that are too many to be loaded."""

KEEP = 60.0
"""Seconds after which the thread no longer prepares rules for a surface that nobody accesses."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Owner:
    """The owner of rules: the platform, a tenant, or all tenants together."""

    tenant_id: UUID | None = None
    all_tenants: bool = False

    @property
    def tag(self) -> str:
        """The cache tag that every change of the owner's rules invalidates."""
        return ALL_RULES_TAG if self.all_tenants else owner_tag(self.tenant_id)


_IN_USE = (RuleRow.deleted_at.is_(None), RuleRow.enabled)

PLATFORM = Owner()
ALL_TENANTS = Owner(all_tenants=True)


def _weight(everyone: NarrowingRules) -> int:
    return max(everyone.conditions, KEPT_CONDITIONS // MAX_SURFACES)


@dataclass(frozen=True)
class _Prepared:
    """What the process keeps prepared."""

    owners: GenerationCache = field(default_factory=lambda: GenerationCache(MAX_CACHED))
    """By owner and surface: a `RuleSet`, with the generation of the owner's rules."""
    everyone: GenerationCache = field(
        default_factory=lambda: GenerationCache(KEPT_CONDITIONS, _weight)
    )
    """By surface: `NarrowingRules`, with the generation of all rules, or `None` if some of them
    have yet to be prepared."""
    preparing: SingleFlight = field(default_factory=SingleFlight)
    read_at: dict[str, float] = field(default_factory=dict)
    """When all tenants' rules on a surface were last read for a request, by the monotonic clock."""


def init_app(app: Flask) -> None:
    app.extensions[_EXTENSION] = _Prepared()


def prepare_in_background(app: Flask) -> None:
    """Have a thread prepare changed rules of all tenants before a request needs them.

    Call it after the last fork.
    """
    Thread(target=_run, args=[app], name="rules", daemon=True).start()


def _run(app: Flask) -> None:
    while True:
        began = monotonic()
        pause = INTERVAL
        try:
            with app.app_context():
                prepare_recently_read()
        except Exception as error:  # whatever fails here, a request tries again
            log.warning("rules_not_prepared", exc_info=error)
            pause = PAUSE_AFTER_ERROR
        # Changes without end leave most of the process's time to its requests.
        sleep(max(pause, IDLE_SHARE * (monotonic() - began)))


def prepare_recently_read() -> None:
    """Prepare all tenants' current rules on the surfaces that were read within KEEP seconds."""
    prepared: _Prepared = current_app.extensions[_EXTENSION]
    since = monotonic() - KEEP
    for surface, read_at in list(prepared.read_at.items()):
        if read_at < since:
            prepared.read_at.pop(surface, None)
        else:
            _read(prepared, ALL_TENANTS, surface)


def read_rules(owner: Owner, surface: str) -> RuleSet:
    """Read the owner's current rules that cover a surface.

    Tenants' rules that allow are left out, since they have no effect.
    """
    prepared: _Prepared = current_app.extensions[_EXTENSION]
    if owner.all_tenants:
        prepared.read_at[surface] = monotonic()
    return _read(prepared, owner, surface)


def _read(prepared: _Prepared, owner: Owner, surface: str) -> RuleSet:
    deadline = monotonic() + PATIENCE
    while True:
        generation = read_generations((owner.tag,))[owner.tag]
        found = _recall(prepared, owner, surface, generation)
        if found is not None:
            return found
        with prepared.preparing.enter((owner, surface)) as done:
            if done is None:
                return _recall(prepared, owner, surface, generation) or _prepare(
                    prepared, owner, surface, generation, deadline
                )
        done.wait()


def _recall(prepared: _Prepared, owner: Owner, surface: str, generation: int) -> RuleSet | None:
    if not owner.all_tenants:
        found: RuleSet | None = prepared.owners.get((owner, surface), generation)
        return found
    everyone: NarrowingRules | None = prepared.everyone.get(surface, generation)
    return None if everyone is None else everyone.rules


def _prepare(
    prepared: _Prepared, owner: Owner, surface: str, generation: int, deadline: float
) -> RuleSet:
    """Read and prepare rules, and keep them. `generation` was read before."""
    if not owner.all_tenants:
        rules = _prepare_alone(owner, surface)
        prepared.owners.put((owner, surface), generation, rules)
        return rules
    _, before = prepared.everyone.entry(surface) or (None, NarrowingRules())
    generations, too_large = _measure(surface)
    everyone: NarrowingRules = before.renew(
        generations,
        lambda tenant_ids: load_candidates(ALL_TENANTS, surface, tenant_ids),
        deadline,
        too_large,
    )
    prepared.everyone.put(surface, None if everyone.rules.pending else generation, everyone)
    return everyone.rules


def _prepare_alone(owner: Owner, surface: str) -> RuleSet:
    """Prepare the rules of the platform, or of one tenant within its budget."""
    if owner.tenant_id is None:
        return prepare(load_candidates(owner, surface))
    _, too_large = _measure(surface, [owner.tenant_id])
    if too_large:
        named = tuple(describe_rules(owner.tenant_id, surface).named)
        return RuleSet(unreadable=named, over_budget=named)
    return prepare_within_budget(load_candidates(owner, surface))


def load_of_tenants(surface: str, tenant_ids: Collection[UUID]) -> list[Candidate]:
    """Load the rules of these tenants; those of one that has too many are one that denies."""
    generations, too_large = _measure(surface, tenant_ids)
    loaded = load_candidates(ALL_TENANTS, surface, generations.keys()) if generations else []
    return [*loaded, *map(unloaded_rules, too_large)]


def _measure(
    surface: str, tenant_ids: Collection[UUID] | None = None
) -> tuple[Generations, frozenset[UUID]]:
    """The generation of each tenant that has a rule which covers the surface and may narrow.

    Apart from these, the tenants whose rules are too large to be loaded: by themselves, or, where
    all tenants are asked for, since those of smaller tenants fill the budget.
    """
    of_tenants = [] if tenant_ids is None else [_owned_by_any(tenant_ids)]
    sizes = (
        select(
            RuleRow.tenant_id,
            func.count().label("rules"),
            func.sum(conditions_of_row()).label("conditions"),
        )
        .where(*_IN_USE, _owned_by(ALL_TENANTS), _covers(surface), *of_tenants)
        .group_by(RuleRow.tenant_id)
        .subquery()
    )
    order = (sizes.c.conditions, sizes.c.tenant_id)
    fits = [sizes.c.rules <= TENANT_RULES, sizes.c.conditions <= TENANT_CONDITIONS]
    if tenant_ids is None:
        fits.append(func.sum(sizes.c.conditions).over(order_by=order) <= ALL_CONDITIONS)
    tag = func.concat(TENANT_TAGS, cast(sizes.c.tenant_id, Text))
    statement = select(
        sizes.c.tenant_id, func.coalesce(CacheGeneration.generation, 0), and_(*fits)
    ).outerjoin(CacheGeneration, CacheGeneration.tag == tag)
    with db.scoped(PolicyScope()):
        found = db.session.execute(statement).all()
    generations = {tenant_id: generation for tenant_id, generation, fit in found if fit}
    return generations, frozenset(tenant_id for tenant_id, _, fit in found if not fit)


@dataclass(frozen=True)
class RulesOfTenant:
    """What is told of a tenant's rules on a surface that are too many to be loaded."""

    tenant: str | None
    """The tenant's slug."""
    rules: int
    named: tuple[Candidate, ...]
    """The first of them, without what they say."""


def describe_rules(tenant_id: UUID, surface: str) -> RulesOfTenant:
    """Count a tenant's rules that cover a surface and may narrow, and name the first of them."""
    conditions = (*_IN_USE, _owned_by(Owner(tenant_id)), _covers(surface))
    first = select(RuleRow.id).where(*conditions).order_by(RuleRow.id).limit(NAMED)
    counted = select(func.count(RuleRow.id)).where(*conditions)
    with db.scoped(PolicyScope()):
        slug = db.session.scalar(select(Tenant.slug).where(Tenant.id == tenant_id))
        ids = db.session.scalars(first).all()
        count = db.session.scalars(counted).one()
    return RulesOfTenant(slug, count, tuple(Candidate(rule, tenant_id, None) for rule in ids))


def load_candidates(
    owner: Owner, surface: str, tenant_ids: Collection[UUID] | None = None
) -> list[Candidate]:
    """Load the owner's rules that cover a surface; of all tenants, only those of `tenant_ids`."""
    conditions = [_owned_by(owner), _covers(surface)]
    if tenant_ids is not None:
        conditions.append(_owned_by_any(tenant_ids))
    return load(*conditions)


def load(*conditions: ColumnElement[bool]) -> list[Candidate]:
    """Load the enabled rules that meet the conditions, of any owner."""
    with db.scoped(PolicyScope()):
        return _load(*conditions)


def load_under_locks(*conditions: ColumnElement[bool]) -> list[Candidate]:
    """Load such rules in the open transaction, which keeps its locks."""
    with db.session.reading(PolicyScope()):
        return _load(*conditions)


def _load(*conditions: ColumnElement[bool]) -> list[Candidate]:
    # A subquery for each rule: a join might read a hundred thousand tenants for a few rules.
    slug = select(Tenant.slug).where(Tenant.id == RuleRow.tenant_id).scalar_subquery()
    statement = select(RuleRow, slug).where(*_IN_USE, *conditions).order_by(RuleRow.id)
    return [candidate_of(row, tenant) for row, tenant in db.session.execute(statement)]


def _covers(surface: str) -> ColumnElement[bool]:
    covering: ColumnElement[bool] = RuleRow.surfaces.overlap(list(surfaces_covering(surface)))
    return covering


def _owned_by_any(tenant_ids: Collection[UUID]) -> ColumnElement[bool]:
    return RuleRow.tenant_id == func.any(literal(list(tenant_ids), ARRAY(Uuid)))


def _owned_by(owner: Owner) -> ColumnElement[bool]:
    if owner.all_tenants:
        return RuleRow.tenant_id.is_not(None) & (RuleRow.effect != "allow")
    if owner.tenant_id is None:
        return RuleRow.tenant_id.is_(None)
    return (RuleRow.tenant_id == owner.tenant_id) & (RuleRow.effect != "allow")
