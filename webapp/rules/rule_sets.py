"""Rule sets: the rules of one owner that cover a surface, prepared and cached while current.

The rules are found by an index on surfaces, so rules for other surfaces cost nothing. Only the
surface selects them; the engine checks all other conditions. So no rule that could deny is missed.
"""

from dataclasses import dataclass
from uuid import UUID

from flask import Flask, current_app
from sqlalchemy import ColumnElement, select

from webapp.caching import GenerationCache, read_generations
from webapp.db.scopes import PolicyScope
from webapp.extensions import db
from webapp.identity.models import Tenant
from webapp.rules.engine.evaluate import Candidate, RuleSet, prepare
from webapp.rules.mapping import candidate_of
from webapp.rules.models import RuleRow
from webapp.rules.rule import ALL_RULES_TAG, owner_tag, surfaces_covering

_EXTENSION = "sightline.rule_sets"
MAX_CACHED = 1000


@dataclass(frozen=True)
class Owner:
    """The owner of rules: the platform, a tenant, or all tenants together."""

    tenant_id: UUID | None = None
    all_tenants: bool = False

    @property
    def tag(self) -> str:
        """The cache tag that every change of the owner's rules invalidates."""
        return ALL_RULES_TAG if self.all_tenants else owner_tag(self.tenant_id)


PLATFORM = Owner()
ALL_TENANTS = Owner(all_tenants=True)


def init_app(app: Flask) -> None:
    app.extensions[_EXTENSION] = GenerationCache(MAX_CACHED)


def read_rules(owner: Owner, surface: str) -> RuleSet:
    """Read the owner's current rules that cover a surface.

    Tenants' rules that allow are left out, since they have no effect.
    """
    cache: GenerationCache = current_app.extensions[_EXTENSION]
    generation = read_generations((owner.tag,))[owner.tag]
    found: RuleSet | None = cache.get((owner, surface), generation)
    if found is None:
        found = prepare(load_candidates(owner, surface))
        cache.put((owner, surface), generation, found)
    return found


def load_candidates(owner: Owner, surface: str) -> list[Candidate]:
    covering = RuleRow.surfaces.overlap(list(surfaces_covering(surface)))
    return load(_owned_by(owner), covering)


def load(*conditions: ColumnElement[bool]) -> list[Candidate]:
    """Load the enabled rules that meet the conditions, of any owner."""
    # A subquery for each rule: a join might read a hundred thousand tenants for a few rules.
    slug = select(Tenant.slug).where(Tenant.id == RuleRow.tenant_id).scalar_subquery()
    statement = (
        select(RuleRow, slug)
        .where(RuleRow.deleted_at.is_(None), RuleRow.enabled, *conditions)
        .order_by(RuleRow.id)
    )
    with db.scoped(PolicyScope()):
        return [candidate_of(row, tenant) for row, tenant in db.session.execute(statement)]


def _owned_by(owner: Owner) -> ColumnElement[bool]:
    if owner.all_tenants:
        return RuleRow.tenant_id.is_not(None) & (RuleRow.effect != "allow")
    if owner.tenant_id is None:
        return RuleRow.tenant_id.is_(None)
    return (RuleRow.tenant_id == owner.tenant_id) & (RuleRow.effect != "allow")
