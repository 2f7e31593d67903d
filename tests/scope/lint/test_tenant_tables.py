"""A tenant table made by the migration helper passes the lint; without any one part it does not."""

from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from flask import Flask
from sqlalchemy import Connection, NullPool, create_engine, make_url, text

from webapp.db.base import Base
from webapp.db.roles import MAINTENANCE_ROLE, POLICY_ROLE
from webapp.db.row_security import TENANT_TABLES, TableShape, may, may_read, tenant_table
from webapp.db.tenant_tables import create_tenant_table, secure_tenant_table, tenant_foreign_key
from webapp.scope.lint.catalog import read_tables
from webapp.scope.lint.tables import check_tables

TABLES = {"invoices", "invoice_lines"}
DEFAULT = tenant_table()
SHAPES = {
    "default": DEFAULT,
    "fewer privileges": tenant_table("select", "insert"),
    "platform rows": tenant_table(platform_rows=True),
    "other roles": tenant_table(
        "select", also=[may(MAINTENANCE_ROLE, "select", "update"), may_read(POLICY_ROLE)]
    ),
}

Findings = set[tuple[str, str]]
Declare = Callable[[TableShape], None]


@pytest.fixture
def owner(app: Flask) -> Iterator[Connection]:
    """A transaction of the tables' owner, in a migration; it is rolled back."""
    url = app.extensions["settings"].database_owner_url
    engine = create_engine(
        url, poolclass=NullPool, connect_args={"options": "-c lock_timeout=180s"}
    )
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"target_metadata": Base.metadata})
        with Operations.context(context):
            yield connection


@pytest.fixture
def found(app: Flask, owner: Connection) -> Callable[[], Findings]:
    login_role = make_url(app.extensions["settings"].database_url).username or ""

    def check() -> Findings:
        findings = check_tables(read_tables(owner), login_role)
        return {(finding.subject.removeprefix("table "), finding.rule) for finding in findings}

    return check


@pytest.fixture
def declare() -> Iterator[Declare]:
    """Give both tables a line in the list of tenant tables."""
    with mock.patch.dict(TENANT_TABLES):
        yield lambda shape: TENANT_TABLES.update(dict.fromkeys(TABLES, shape))


def create_tables() -> None:
    create_tenant_table("invoices", sa.Column("number", sa.Text(), nullable=False))
    create_tenant_table(
        "invoice_lines",
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        tenant_foreign_key("invoice_lines", "invoice_id", "invoices"),
    )


def test_tenant_table_without_line_passes_lint(
    owner: Connection, found: Callable[[], Findings]
) -> None:
    create_tables()
    assert {table.name for table in read_tables(owner)} >= TABLES
    assert found() == set()


@pytest.mark.parametrize("shape", SHAPES)
def test_tenant_table_passes_lint_with_the_shape_of_its_line(
    declare: Declare, found: Callable[[], Findings], shape: str
) -> None:
    declare(SHAPES[shape])
    create_tables()
    assert found() == set()


OMISSIONS = [
    ("not-secured", "alter table invoices disable row level security"),
    ("not-forced", "alter table invoices no force row level security"),
    ("no-policy", "drop policy tenant_all on invoices"),
    ("no-policy", "drop policy global_all on invoices"),
    *(
        ("no-grant", f"revoke {privilege} on invoices from sightline_{role}")
        for privilege in ("select", "insert", "update", "delete")
        for role in ("tenant", "global")
    ),
    ("no-index", "alter table invoices drop constraint uq_invoices_tenant_id_id cascade"),
]


@pytest.mark.parametrize(("rule", "omission"), OMISSIONS)
def test_part_missing_from_tenant_table_is_found(
    owner: Connection, found: Callable[[], Findings], rule: str, omission: str
) -> None:
    create_tables()
    owner.execute(text(omission))
    assert found() == {("invoices", rule)}


def test_reference_without_tenant_is_found(
    owner: Connection, found: Callable[[], Findings]
) -> None:
    create_tables()
    owner.execute(
        text(
            "alter table invoice_lines"
            " drop constraint fk_invoice_lines_tenant_id_invoice_id_invoices,"
            " add foreign key (invoice_id) references invoices (id)"
        )
    )
    assert found() == {("invoice_lines", "reference")}


def test_table_made_without_helper_lacks_every_part(
    owner: Connection, found: Callable[[], Findings]
) -> None:
    owner.execute(text("create table invoices (id uuid primary key, tenant_id uuid not null)"))
    rules = {"not-secured", "not-forced", "no-policy", "no-grant", "no-index"}
    assert found() == {("invoices", rule) for rule in rules}


def test_privilege_beyond_the_line_of_its_table_is_found(
    owner: Connection, declare: Declare, found: Callable[[], Findings]
) -> None:
    declare(tenant_table("select"))
    create_tables()
    owner.execute(text("grant update (number) on invoices to sightline_tenant"))
    assert found() == {("invoices", "grant")}


def test_changed_line_asks_for_a_migration_that_secures_its_table_again(
    declare: Declare, found: Callable[[], Findings]
) -> None:
    create_tables()
    declare(SHAPES["other roles"])
    rules = {"no-policy", "no-grant", "grant"}
    assert found() == {(table, rule) for table in TABLES for rule in rules}
    for table in TABLES:
        secure_tenant_table(table)
    assert found() == set()
