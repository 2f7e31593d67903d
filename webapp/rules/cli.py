"""`flask rules`: what an operator at the machine reads of the rules."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from uuid import uuid4

import click

from webapp.commands import Commands, as_json, print_json, print_rows
from webapp.extensions import db
from webapp.http import MAX_LIMIT
from webapp.rules import service
from webapp.rules.rule import Rule, RuleQuery
from webapp.rules.schemas import RuleSchema
from webapp.scope.scopes import GlobalScope

group = Commands("rules", help="The rules that decide elevations.")


@dataclass(frozen=True)
class RuleEntry:
    """A rule's line in the table."""

    name: str
    tenant: str | None
    effect: str
    surfaces: tuple[str, ...]
    enabled: bool
    version: int


@group.command("list")
@click.option("--tenant", metavar="SLUG", help="Only this tenant's.")
@click.option("--q", metavar="TEXT", help="Only those with it in their name or description.")
@as_json
def list_command(*, tenant: str | None, q: str | None, as_json: bool) -> None:
    """Show rules by name: the platform's, which have no tenant, and every tenant's."""
    scope = GlobalScope(look_id=uuid4())
    with db.session.scoped(scope):
        rules = list(_rules(scope, RuleQuery(limit=MAX_LIMIT, tenant=tenant, q=q)))
    if as_json:
        print_json({"items": RuleSchema(many=True).dump(rules)})
    else:
        print_rows(RuleEntry, [_entry(rule) for rule in rules], as_json=False)


def _rules(scope: GlobalScope, query: RuleQuery) -> Iterator[Rule]:
    """Every page of the list, straight from the database."""
    while True:
        page = service.list_rules.uncached(scope, query)
        yield from page.items
        if page.next_cursor is None:
            return
        query = replace(query, cursor=page.next_cursor)


def _entry(rule: Rule) -> RuleEntry:
    return RuleEntry(rule.name, rule.tenant, rule.effect, rule.surfaces, rule.enabled, rule.version)
