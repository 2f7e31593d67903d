"""Closing a table whose rows belong to tenants: what a migration calls after `create_table`."""

from alembic import op

_TENANT = "(select nullif(current_setting('sightline.tenant_id', true), '')::uuid)"
_ACCESS = "(select coalesce(current_setting('sightline.access', true), '')) <> ''"
_EXCLUDED = (
    "(select unnest(string_to_array(current_setting('sightline.excluded', true), ',')::uuid[]))"
)


def close_tenant_table(table: str, privileges: str, *, platform_rows: bool = False) -> None:
    """Let each scope see its own rows of `table`, and grant the scopes' roles these privileges.

    `tenant_id` says whose a row is; with `platform_rows`, null is the platform's own. `make
    lint-scope` compares what this makes with `webapp/scope/lint/shapes.py`.
    """
    included = f"tenant_id not in {_EXCLUDED}"
    if platform_rows:
        included = f"(tenant_id is null or {included})"
    visible = {
        "sightline_tenant": f"tenant_id = {_TENANT}",
        "sightline_global": f"{_ACCESS} and {included}",
    }
    op.execute(f"alter table {table} enable row level security")
    op.execute(f"alter table {table} force row level security")
    for role, rows in visible.items():
        op.execute(f"create policy {role} on {table} to {role} using ({rows}) with check ({rows})")
        op.execute(f"grant {privileges} on {table} to {role}")
