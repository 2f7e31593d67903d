"""Helpers for migrations that make tenant tables, closed as `webapp.db.row_security` says."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import SchemaItem

from webapp.db.roles import SCOPE_ROLES
from webapp.db.row_security import OWNER, RowPolicy, TableShape, shape_of

_COMMANDS = {"*": "all", "r": "select", "a": "insert", "w": "update", "d": "delete"}
_DROP_POLICIES = """
do $drop$
declare
  found text;
begin
  for found in select policyname from pg_policies
    where schemaname = 'public' and tablename = '{table}'
  loop
    execute format('drop policy %I on public.{table}', found);
  end loop;
end $drop$
"""


def create_tenant_table(name: str, *columns_and_constraints: SchemaItem) -> None:
    """Create a table of tenants' rows, with `id` and `tenant_id`, and close it.

    The unique key over `tenant_id` and `id` is what `tenant_foreign_key` of another table refers
    to. Its index is the one that leads with `tenant_id`.
    """
    platform_rows = shape_of(name).platform_rows
    op.create_table(
        name,
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=platform_rows),
        *columns_and_constraints,
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f(f"fk_{name}_tenant_id_tenants")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{name}")),
        sa.UniqueConstraint(
            "tenant_id",
            "id",
            name=op.f(f"uq_{name}_tenant_id_id"),
            **_nulls_not_distinct(platform_rows),
        ),
    )
    secure_tenant_table(name)


def tenant_foreign_key(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    """A reference from `table` to `target` that cannot point at another tenant's row."""
    return sa.ForeignKeyConstraint(
        ["tenant_id", column],
        [f"{target}.tenant_id", f"{target}.id"],
        name=op.f(f"fk_{table}_tenant_id_{column}_{target}"),
    )


def secure_tenant_table(name: str) -> None:
    """Give an existing table the policies and privileges that its line declares, and no other.

    When a line changes, the migration that goes with the change calls this again.
    """
    op.execute(f"alter table {name} enable row level security")
    op.execute(f"alter table {name} force row level security")
    op.execute(_DROP_POLICIES.format(table=name))
    op.execute(f"revoke all on {name} from {', '.join(SCOPE_ROLES)}")
    for statement in _permission_statements(name, shape_of(name)):
        op.execute(statement)


def _permission_statements(table: str, shape: TableShape) -> Iterator[str]:
    for permission in shape.permissions:
        if not _has_function(permission.needs):
            continue
        for policy in permission.policies:
            yield _policy_statement(table, policy)
        yield f"grant {', '.join(permission.privileges)} on {table} to {permission.role}"
    for policy in shape.of_owner:
        yield _policy_statement(table, policy)


def _has_function(signature: str | None) -> bool:
    """Whether a function is there. The migration that makes it closes the tables that need it."""
    found = sa.select(sa.func.to_regprocedure(signature).is_not(None))
    return signature is None or bool(op.get_bind().scalar(found))


def _policy_statement(table: str, policy: RowPolicy) -> str:
    command = _COMMANDS[policy.command]
    using = f" using ({policy.using})" if policy.using else ""
    check = f" with check ({policy.check})" if policy.check else ""
    name = f"{policy.role.removeprefix('sightline_')}_{command}"
    role = "current_user" if policy.role == OWNER else policy.role
    return f"create policy {name} on {table} for {command} to {role}{using}{check}"


def _nulls_not_distinct(platform_rows: bool) -> dict[str, Any]:
    """Platform rows have no tenant, and still only one row has an id."""
    return {"postgresql_nulls_not_distinct": True} if platform_rows else {}
