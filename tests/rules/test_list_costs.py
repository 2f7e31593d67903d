"""What the list of rules reads from the database, among the rules of many other tenants."""

from dataclasses import replace
from typing import get_args
from uuid import uuid4

import pytest
from flask import Flask

from bench import filling
from tests.factories import MadeTenant, add_tenant
from tests.plans import scans_of
from webapp.db.scopes import GlobalScope, Scope, TenantScope
from webapp.extensions import db
from webapp.http.pagination import COUNTED
from webapp.rules.rule import RuleQuery, SortKey
from webapp.rules.service import list_rules
from webapp.stack.home import Stack

pytestmark = pytest.mark.slow(seconds=0.05)

TENANTS, EACH = 500, 40
BOUND = 2 * (COUNTED + 52)


@pytest.fixture(scope="module")
def tenant(filled_app: Flask, filled_stack: Stack) -> MadeTenant:
    """A tenant with a few rules that allow, among the denials of many others."""
    tenant = add_tenant(filled_app)
    owner = filled_stack.environment["DATABASE_OWNER_URL"]
    filling.add_tenant_rules(owner, "allow", "log.read", each=3, slugs=tenant.slug)
    filling.add_tenants(owner, 0, TENANTS)
    filling.add_tenant_rules(owner, "deny", "log.read", each=EACH)
    return tenant


QUERIES = [
    RuleQuery(),
    RuleQuery(effect="deny"),
    RuleQuery(effect="allow"),
    RuleQuery(effect="require_approval"),
    RuleQuery(enabled=True),
    RuleQuery(enabled=False),
    RuleQuery(tenant="nobodys"),
    RuleQuery(tenant="bench-7"),
]


@pytest.mark.parametrize("sort", get_args(SortKey))
@pytest.mark.parametrize("query", QUERIES, ids=str)
@pytest.mark.parametrize("everywhere", [False, True])
def test_page_of_rules_reads_no_more_rows_than_it_counts_and_shows(
    filled_app: Flask, tenant: MadeTenant, everywhere: bool, query: RuleQuery, sort: SortKey
) -> None:
    scope: Scope = GlobalScope(uuid4()) if everywhere else TenantScope(tenant.id)
    with filled_app.app_context(), db.scoped(scope):
        read = replace(query, sort=sort)
        scans = scans_of("rules", lambda: list_rules.uncached(scope, read))
    assert sum(scan.rows for scan in scans) <= BOUND, scans


def test_total_of_rules_is_exact_up_to_a_thousand_and_then_a_bound(
    filled_app: Flask, tenant: MadeTenant
) -> None:
    scope = GlobalScope(uuid4())
    with filled_app.app_context(), db.scoped(scope):
        every = list_rules(scope, RuleQuery())
        again = list_rules(scope, RuleQuery())
        one = list_rules(scope, RuleQuery(tenant=tenant.slug))
    assert (every.value.total, every.value.total_is_at_least) == (None, 1000)
    assert (again.value, again.json) == (every.value, every.json)
    assert b'"total":null,"total_is_at_least":1000' in every.json
    assert (one.value.total, one.value.total_is_at_least) == (3, None)
    assert b"total_is_at_least" not in one.json
