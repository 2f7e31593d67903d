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
from sqlalchemy import ARRAY, ColumnElement, Text, Uuid, cast, func, literal, select

from webapp.caching import CacheGeneration, GenerationCache, SingleFlight, read_generations
from webapp.db.scopes import PolicyScope
from webapp.extensions import db
from webapp.identity.models import Tenant
from webapp.rules.engine.evaluate import Candidate, RuleSet, prepare
from webapp.rules.mapping import candidate_of
from webapp.rules.models import RuleRow
from webapp.rules.narrowing import Generations, NarrowingRules, prepare_within_budget
from webapp.rules.rule import ALL_RULES_TAG, TENANT_TAGS, owner_tag, surfaces_covering

_EXTENSION = "sightline.rule_sets"
MAX_CACHED = 1000
MAX_SURFACES = 100
"""How many surfaces have all tenants' rules prepared at most."""

PATIENCE = 5.0
"""Seconds after which a request prepares no further tenants' rules, but leaves them out."""

INTERVAL, IDLE_SHARE = 0.25, 4
"""How many seconds the thread sleeps at least, and how many times as long as it has worked."""

PAUSE_AFTER_ERROR = 5.0

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


@dataclass(frozen=True)
class _Prepared:
    """What the process keeps prepared."""

    owners: GenerationCache = field(default_factory=lambda: GenerationCache(MAX_CACHED))
    """By owner and surface: a `RuleSet`, with the generation of the owner's rules."""
    everyone: GenerationCache = field(default_factory=lambda: GenerationCache(MAX_SURFACES))
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
        candidates = load_candidates(owner, surface)
        rules = prepare_within_budget(candidates) if owner.tenant_id else prepare(candidates)
        prepared.owners.put((owner, surface), generation, rules)
        return rules
    _, before = prepared.everyone.entry(surface) or (None, NarrowingRules())
    everyone: NarrowingRules = before.renew(
        _tenant_generations(surface),
        lambda tenant_ids: load_candidates(ALL_TENANTS, surface, tenant_ids),
        deadline,
    )
    prepared.everyone.put(surface, None if everyone.rules.pending else generation, everyone)
    return everyone.rules


def _tenant_generations(surface: str) -> Generations:
    """The generation of each tenant that has a rule which covers the surface and may narrow."""
    tenants = (
        select(RuleRow.tenant_id)
        .where(*_IN_USE, _owned_by(ALL_TENANTS), _covers(surface))
        .distinct()
        .subquery()
    )
    tag = func.concat(TENANT_TAGS, cast(tenants.c.tenant_id, Text))
    statement = select(tenants.c.tenant_id, func.coalesce(CacheGeneration.generation, 0)).outerjoin(
        CacheGeneration, CacheGeneration.tag == tag
    )
    with db.scoped(PolicyScope()):
        return {row[0]: row[1] for row in db.session.execute(statement)}


def load_candidates(
    owner: Owner, surface: str, tenant_ids: Collection[UUID] | None = None
) -> list[Candidate]:
    """Load the owner's rules that cover a surface; of all tenants, only those of `tenant_ids`."""
    conditions = [_owned_by(owner), _covers(surface)]
    if tenant_ids is not None:
        conditions.append(RuleRow.tenant_id == func.any(literal(list(tenant_ids), ARRAY(Uuid))))
    return load(*conditions)


def load(*conditions: ColumnElement[bool]) -> list[Candidate]:
    """Load the enabled rules that meet the conditions, of any owner."""
    # A subquery for each rule: a join might read a hundred thousand tenants for a few rules.
    slug = select(Tenant.slug).where(Tenant.id == RuleRow.tenant_id).scalar_subquery()
    statement = select(RuleRow, slug).where(*_IN_USE, *conditions).order_by(RuleRow.id)
    with db.scoped(PolicyScope()):
        return [candidate_of(row, tenant) for row, tenant in db.session.execute(statement)]


def _covers(surface: str) -> ColumnElement[bool]:
    covering: ColumnElement[bool] = RuleRow.surfaces.overlap(list(surfaces_covering(surface)))
    return covering


def _owned_by(owner: Owner) -> ColumnElement[bool]:
    if owner.all_tenants:
        return RuleRow.tenant_id.is_not(None) & (RuleRow.effect != "allow")
    if owner.tenant_id is None:
        return RuleRow.tenant_id.is_(None)
    return (RuleRow.tenant_id == owner.tenant_id) & (RuleRow.effect != "allow")
