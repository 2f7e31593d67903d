"""What the list of grants reads from the database, among many other people's grants."""

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from flask import Flask

from bench import filling
from tests.factories import Account, MadeTenant, add_account, add_tenant
from tests.plans import scans_of
from webapp.db.scopes import GlobalScope, PrincipalScope, Scope, TenantScope
from webapp.extensions import db
from webapp.grants.grant import GrantQuery
from webapp.grants.service import list_grants
from webapp.stack.home import Stack

pytestmark = pytest.mark.slow(seconds=0.1)

GRANTS = 20_000
BOUND = GRANTS // 4
"""More than is counted and shown, since PostgreSQL may read a few rows for each of many tenants."""


@pytest.fixture(scope="module")
def tenant(filled_app: Flask) -> MadeTenant:
    return add_tenant(filled_app)


@pytest.fixture(scope="module")
def holder(filled_app: Flask, filled_stack: Stack, tenant: MadeTenant) -> Account:
    """The holder of a few grants at a tenant, among the grants of many others elsewhere."""
    holder, other = add_account(filled_app, "support"), add_account(filled_app, "support")
    owner = filled_stack.environment["DATABASE_OWNER_URL"]
    filling.add_grants(owner, holder.email, tenant.slug, "denied", 0, 5)
    filling.add_grants(owner, other.email, add_tenant(filled_app).slug, "expired", 5, GRANTS)
    filling.add_grants(owner, other.email, tenant.slug, "denied", 5 + GRANTS, 5)
    return holder


SCOPES: dict[str, Callable[[Account, MadeTenant], Scope]] = {
    "all tenants": lambda holder, tenant: GlobalScope(uuid4()),
    "tenant": lambda holder, tenant: TenantScope(tenant.id),
    "admin": lambda holder, tenant: PrincipalScope(uuid4(), frozenset({tenant.id})),
    "admin of many": lambda holder, tenant: PrincipalScope(
        uuid4(), frozenset({tenant.id, *(UUID(int=n) for n in range(1, 200))})
    ),
    "holder": lambda holder, tenant: PrincipalScope(holder.id),
    "holder and admin": lambda holder, tenant: PrincipalScope(holder.id, frozenset({tenant.id})),
}
QUERIES = [
    GrantQuery(),
    GrantQuery(sort="requested_at"),
    GrantQuery(state="denied"),
    GrantQuery(state="approved"),
    GrantQuery(kind="break_glass"),
    GrantQuery(holder="nobody@example.org"),
    GrantQuery(tenant="nobodys"),
]


@pytest.mark.parametrize("query", QUERIES, ids=str)
@pytest.mark.parametrize("scope", SCOPES)
def test_page_of_grants_reads_no_more_rows_than_it_counts_and_shows(
    filled_app: Flask, holder: Account, tenant: MadeTenant, scope: str, query: GrantQuery
) -> None:
    for chosen in (query, replace(query, holder=holder.email), replace(query, tenant=tenant.slug)):
        entered = SCOPES[scope](holder, tenant)
        with filled_app.app_context(), db.scoped(entered):
            scans = scans_of("grants", lambda: list_grants(entered, chosen))  # noqa: B023 - run at once
            assert sum(scan.rows for scan in scans) <= BOUND, scans


@pytest.mark.parametrize(
    ("scope", "total"),
    [
        ("admin", 10),
        ("admin of many", 10),
        ("holder", 5),
        ("tenant", 10),
        ("all tenants", None),
    ],
)
def test_total_of_grants_is_what_the_scope_sees(
    filled_app: Flask, holder: Account, tenant: MadeTenant, scope: str, total: int | None
) -> None:
    entered = SCOPES[scope](holder, tenant)
    with filled_app.app_context(), db.scoped(entered):
        page = list_grants(entered, GrantQuery())
    assert page.total == total
    assert len({grant.id for grant in page.items}) == len(page.items) == (total or 50)


def test_own_grant_at_a_tenant_that_one_administers_is_shown_once(
    filled_app: Flask, holder: Account, tenant: MadeTenant
) -> None:
    entered = SCOPES["holder and admin"](holder, tenant)
    with filled_app.app_context(), db.scoped(entered):
        page = list_grants(entered, GrantQuery(sort="requested_at"))
    assert page.total == 10
    assert [grant.requested_at for grant in page.items] == sorted(
        {grant.requested_at for grant in page.items}
    )
