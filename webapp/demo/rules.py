"""Creation of the demo's rules as by the API: checked, and with their history."""

from collections.abc import Iterable

from sqlalchemy import select

from webapp.db.scopes import Scope, TenantScope
from webapp.demo.drafts import Draft
from webapp.extensions import db
from webapp.rules import service
from webapp.rules.models import RuleRow
from webapp.rules.schemas import RuleCreateSchema


def add_rules(scope: Scope, drafts: Iterable[Draft], by: str) -> None:
    """Create the rules that the scope's owner does not have yet.

    Some may exist: an interrupted seed leaves some, and the first migration makes one.
    """
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
