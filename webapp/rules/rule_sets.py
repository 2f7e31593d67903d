"""The rules that may have something to say of a surface, prepared and kept while they are current.

There may be any number of rules elsewhere: those of one surface are found by an index. None is left
out that could deny: by the surface alone is chosen, all else is the engine's.
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
REMEMBERED = 1000


@dataclass(frozen=True)
class Owner:
    """Whose rules: the platform's, a tenant's, or those of all tenants."""

    tenant_id: UUID | None = None
    all_tenants: bool = False

    @property
    def tag(self) -> str:
        """The cache tag that every change of them raises."""
        return ALL_RULES_TAG if self.all_tenants else owner_tag(self.tenant_id)


PLATFORM = Owner()
ALL_TENANTS = Owner(all_tenants=True)


def init_app(app: Flask) -> None:
    app.extensions[_EXTENSION] = GenerationCache(REMEMBERED)


def read_rules(owner: Owner, surface: str) -> RuleSet:
    """The owner's rules that cover the surface, as they are now. Of tenants only those that
    narrow: what a tenant allows changes nothing."""
    remembered: GenerationCache = current_app.extensions[_EXTENSION]
    generation = read_generations((owner.tag,))[owner.tag]
    found: RuleSet | None = remembered.get((owner, surface), generation)
    if found is None:
        found = prepare(load_candidates(owner, surface))
        remembered.put((owner, surface), generation, found)
    return found


def load_candidates(owner: Owner, surface: str) -> list[Candidate]:
    covering = RuleRow.surfaces.overlap(list(surfaces_covering(surface)))
    return load(_owned_by(owner), covering)


def load(*conditions: ColumnElement[bool]) -> list[Candidate]:
    """The rules in use that meet these conditions, whoever's they are."""
    # Accessed up for each rule: a join may read all of a hundred thousand tenants for some of them.
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
