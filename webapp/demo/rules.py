"""The demo's rules, made the way that a client's are: checked, and with their history."""

from collections.abc import Iterable

from sqlalchemy import exists, select

from webapp.demo.drafts import Draft
from webapp.extensions import db
from webapp.rules import service
from webapp.rules.models import RuleRow
from webapp.rules.schemas import RuleCreateSchema
from webapp.scope.scopes import Scope, TenantScope


def add_rules(scope: Scope, drafts: Iterable[Draft], by: str) -> None:
    """Make all rules of the scope's own, unless it has any: then an earlier seed came this far."""
    tenant_id = scope.tenant_id if isinstance(scope, TenantScope) else None
    if db.session.scalar(select(exists().where(RuleRow.tenant_id.is_not_distinct_from(tenant_id)))):
        return
    schema = RuleCreateSchema()
    for draft in drafts:
        service.create_rule(scope, schema.load(draft), by)
