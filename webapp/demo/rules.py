"""The demo's rules, made the way that a client's are: checked, and with their history."""

from collections.abc import Iterable

from sqlalchemy import select

from webapp.db.scopes import Scope, TenantScope
from webapp.demo.drafts import Draft
from webapp.extensions import db
from webapp.rules import service
from webapp.rules.models import RuleRow
from webapp.rules.schemas import RuleCreateSchema


def add_rules(scope: Scope, drafts: Iterable[Draft], by: str) -> None:
    """Make those that are missing among the scope's own: an earlier seed may have come this far,
    and a platform has a rule from the beginning."""
    tenant_id = scope.tenant_id if isinstance(scope, TenantScope) else None
    there = set(
        db.session.scalars(
            select(RuleRow.name).where(RuleRow.tenant_id.is_not_distinct_from(tenant_id))
        )
    )
    schema = RuleCreateSchema()
    for draft in drafts:
        if draft["name"] not in there:
            service.create_rule(scope, schema.load(draft), by)
