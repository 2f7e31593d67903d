"""`close_tenant_table`: a table that it closes has the shape that `make lint-scope` demands."""

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from flask import Flask
from sqlalchemy import Connection, NullPool, create_engine, make_url, text

from webapp.db.tenant_tables import close_tenant_table
from webapp.scope.lint.catalog import Table, read_tables
from webapp.scope.lint.tables import check_tables
from webapp.settings import Settings


@pytest.mark.parametrize(("column", "platform_rows"), [("uuid not null", False), ("uuid", True)])
def test_closed_table_has_the_shape_that_the_lint_demands(
    app: Flask, column: str, platform_rows: bool
) -> None:
    settings: Settings = app.extensions["settings"]
    assert settings.database_owner_url
    login_role = make_url(settings.database_url).username or ""
    engine = create_engine(settings.database_owner_url, poolclass=NullPool)
    with engine.connect() as connection:  # and nothing is committed
        connection.execute(text(f"create table things (id uuid primary key, tenant_id {column})"))
        connection.execute(text("create index on things (tenant_id)"))
        before = check_tables(_things(connection), login_role)
        with Operations.context(MigrationContext.configure(connection)):
            close_tenant_table("things", "select", platform_rows=platform_rows)
        after = check_tables(_things(connection), login_role)
    assert {finding.rule for finding in before} == {"not-secured", "not-forced", "no-policy"}
    assert after == []


def _things(connection: Connection) -> list[Table]:
    return [table for table in read_tables(connection) if table.name == "things"]
