"""Keep each set of tenants that accesses left out once, beside the events that name it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

OWN = "(select nullif(current_setting('sightline.tenant_id', true), '')::uuid)"
ACCESSING = "(select coalesce(current_setting('sightline.access', true), '')) <> ''"


def upgrade() -> None:
    op.create_table(
        "excluded_sets",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("tenant_ids", postgresql.ARRAY(postgresql.UUID()), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_excluded_sets")),
    )
    op.create_index(
        op.f("ix_excluded_sets_tenant_ids"),
        "excluded_sets",
        ["tenant_ids"],
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )
    op.execute("alter table excluded_sets enable row level security")
    op.execute("alter table excluded_sets force row level security")
    for role, command, rows in (
        ("tenant", "select", f"using (tenant_ids @> array[{OWN}])"),
        ("global", "select", f"using ({ACCESSING})"),
        ("ledger", "select", "using (true)"),
        ("ledger", "insert", "with check (true)"),
    ):
        op.execute(
            f"create policy {role}_{command} on excluded_sets for {command}"
            f" to sightline_{role} {rows}"
        )
    # A tenant learns by which sets it is left out, and not who else is in them.
    op.execute("grant select (digest) on excluded_sets to sightline_tenant, sightline_ledger")
    op.execute("grant select on excluded_sets to sightline_global")
    op.execute("grant insert on excluded_sets to sightline_ledger")
    op.execute(
        "create trigger append_only before update or delete or truncate on excluded_sets"
        " for each statement execute function refuse_rewriting()"
    )
    op.add_column("audit_events", sa.Column("excluded_digest", sa.Text(), nullable=True))
    op.execute("drop policy own on audit_events")
    op.execute(
        f"""
        create policy own on audit_events for select to sightline_tenant using (
          tenant_id = {OWN}
          or ({OWN} is not null
            and scope_kind = 'global' and kind = 'access' and effect = 'allowed'
            and not ({OWN} = any (excluded_tenant_ids))
            and (excluded_digest is null
              or not (excluded_digest in (select digest from excluded_sets))))
        )
        """  # noqa: S608 - constants
    )
