"""Identity, rules, the ledger and cache generations; tenants' rows behind row level security."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Timestamp = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")

OWN = "(select nullif(current_setting('sightline.tenant_id', true), '')::uuid)"
LOOKING = "(select coalesce(current_setting('sightline.look', true), '')) <> ''"
EXCLUDED = (
    "(select unnest(string_to_array(current_setting('sightline.excluded', true), ',')::uuid[]))"
)

# Attached, not created in place, which would lock readers of the ledger out. Who reaches a
# partition by its own name finds row level security without a policy: nothing. A month that other
# partitions cover, wholly or in part, is left to them.
ENSURE_PARTITION = """
create function ensure_audit_partition(of_day date) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
set lock_timeout = '5s'
as $$
declare
  begins date := date_trunc('month', of_day);
  ends date := begins + interval '1 month';
  partition text := 'audit_events_' || to_char(begins, 'YYYYMM');
begin
  if to_regclass('public.' || partition) is not null then return; end if;
  perform pg_advisory_xact_lock(hashtext('ensure_audit_partition'));
  -- Not by to_regclass, which remembers that there was none before the wait.
  if exists (select from pg_class where relname = partition
    and relnamespace = 'public'::regnamespace) then return; end if;
  begin
    execute format('create table public.%I (like public.audit_events including all)', partition);
    execute format('alter table public.%I enable row level security', partition);
    execute format('alter table public.%I force row level security', partition);
    execute format('create trigger append_only before update or delete or truncate on public.%I'
      ' for each statement execute function public.refuse_rewriting()', partition);
    execute format('alter table public.audit_events attach partition public.%I'
      ' for values from (%L) to (%L)', partition, begins::timestamptz, ends::timestamptz);
  exception when invalid_object_definition then return;
  end;
end $$
"""


def upgrade() -> None:
    _create_identity()
    _create_rules()
    _create_ledger()
    _create_cache_generations()
    op.execute("grant select on alembic_version to sightline_identity")


def _create_identity() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", Timestamp, server_default=NOW, nullable=False),
        sa.CheckConstraint("slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'", name=op.f("ck_tenants_slug")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("slug", name=op.f("uq_tenants_slug")),
    )
    op.create_table(
        "principals",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("created_at", Timestamp, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_principals")),
        sa.UniqueConstraint("email", name=op.f("uq_principals_email")),
    )
    op.create_table(
        "platform_roles",
        sa.Column("principal_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "role in ('support', 'engineer', 'auditor', 'owner')",
            name=op.f("ck_platform_roles_role"),
        ),
        sa.ForeignKeyConstraint(
            ["principal_id"],
            ["principals.id"],
            name=op.f("fk_platform_roles_principal_id_principals"),
        ),
        sa.PrimaryKeyConstraint("principal_id", "role", name=op.f("pk_platform_roles")),
    )
    op.create_table(
        "memberships",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("principal_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.CheckConstraint("role in ('member', 'admin')", name=op.f("ck_memberships_role")),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_memberships_principal_id_principals")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_memberships_tenant_id_tenants")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "principal_id", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_principal_id"), "memberships", ["principal_id"])
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("principal_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", Timestamp, server_default=NOW, nullable=False),
        sa.Column("expires_at", Timestamp, nullable=True),
        sa.Column("revoked_at", Timestamp, nullable=True),
        sa.Column("last_used_at", Timestamp, nullable=True),
        sa.CheckConstraint("octet_length(token_hash) = 32", name=op.f("ck_api_tokens_token_hash")),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_api_tokens_principal_id_principals")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_api_tokens_token_hash")),
    )
    op.create_index(op.f("ix_api_tokens_principal_id"), "api_tokens", ["principal_id"])
    for table, key in (("tenants", "id"), ("memberships", "tenant_id")):
        _secure(table)
        _scope_policies(table, key)
        op.execute(
            f"create policy identity on {table} to sightline_identity"
            " using (true) with check (true)"
        )
        op.execute(f"grant select on {table} to sightline_tenant, sightline_global")
    op.execute("grant select, insert, update on tenants to sightline_identity")
    op.execute("grant select, insert, update, delete on memberships to sightline_identity")
    op.execute("grant select, insert on principals to sightline_identity")
    op.execute("grant select, insert, delete on platform_roles to sightline_identity")
    op.execute("grant select, insert, update on api_tokens to sightline_identity")


def _create_rules() -> None:
    op.create_table(
        "rules",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("effect", sa.Text(), nullable=False),
        sa.Column("subjects", postgresql.JSONB(), nullable=False),
        sa.Column("surfaces", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("reasons", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("ticket", sa.Text(), nullable=True),
        sa.Column("windows", postgresql.JSONB(), nullable=False),
        sa.Column("networks", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("mfa", sa.Boolean(), nullable=False),
        sa.Column("max_minutes", sa.Integer(), nullable=True),
        sa.Column("min_approvals", sa.Integer(), nullable=False),
        sa.Column("approver_roles", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("starts_at", Timestamp, nullable=True),
        sa.Column("ends_at", Timestamp, nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", Timestamp, server_default=NOW, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("updated_at", Timestamp, server_default=NOW, nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.Column("deleted_at", Timestamp, nullable=True),
        sa.CheckConstraint(
            "effect in ('allow', 'deny', 'require_approval')", name=op.f("ck_rules_effect")
        ),
        sa.CheckConstraint("version > 0", name=op.f("ck_rules_version")),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_rules_tenant_id_tenants")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rules")),
        sa.UniqueConstraint(
            "tenant_id",
            "id",
            name=op.f("uq_rules_tenant_id_id"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index(
        "uq_rules_tenant_id_name",
        "rules",
        ["tenant_id", "name"],
        unique=True,
        postgresql_where=sa.text("deleted_at is null"),
        postgresql_nulls_not_distinct=True,
    )
    for columns in (
        ["tenant_id", "created_at", "id"],
        ["tenant_id", "updated_at", "id"],
        ["name", "id"],
        ["created_at", "id"],
        ["updated_at", "id"],
    ):
        op.create_index(
            op.f(f"ix_rules_{'_'.join(columns)}"),
            "rules",
            columns,
            postgresql_where=sa.text("deleted_at is null"),
        )
    op.create_table(
        "rule_versions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("rule_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=True),
        sa.Column("change", sa.Text(), nullable=False),
        sa.Column("changed_at", Timestamp, server_default=NOW, nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.Column("snapshot", postgresql.JSONB(), nullable=False),
        sa.CheckConstraint(
            "change in ('created', 'updated', 'deleted')", name=op.f("ck_rule_versions_change")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "rule_id"],
            ["rules.tenant_id", "rules.id"],
            name=op.f("fk_rule_versions_tenant_id_rule_id_rules"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rule_versions")),
        sa.UniqueConstraint(
            "tenant_id",
            "rule_id",
            "version",
            name=op.f("uq_rule_versions_tenant_id_rule_id_version"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    for table in ("rules", "rule_versions"):
        _secure(table)
        _scope_policies(table, "tenant_id", nullable=True)
    op.execute("grant select, insert, update on rules to sightline_tenant, sightline_global")
    op.execute("grant select, insert on rule_versions to sightline_tenant, sightline_global")


def _create_ledger() -> None:
    op.create_table(
        "audit_events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=True),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("occurred_at", Timestamp, nullable=False),
        sa.Column("committed_at", Timestamp, server_default=NOW, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=False),
        sa.Column("actor_email", sa.Text(), nullable=False),
        sa.Column("surface", sa.Text(), nullable=False),
        sa.Column("reason_code", sa.Text(), nullable=True),
        sa.Column("ticket", sa.Text(), nullable=True),
        sa.Column("scope_kind", sa.Text(), nullable=False),
        sa.Column("effect", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("origin_journal", sa.Uuid(), nullable=False),
        sa.Column("origin_seq", sa.BigInteger(), nullable=False),
        sa.Column("excluded_tenant_ids", postgresql.ARRAY(postgresql.UUID()), nullable=False),
        sa.Column("event", postgresql.JSONB(), nullable=False),
        # The key of a partitioned table names what it is partitioned by; an event delivered again
        # says the same of when it occurred, so that it meets itself.
        sa.PrimaryKeyConstraint("id", "occurred_at", name=op.f("pk_audit_events")),
        postgresql_partition_by="range (occurred_at)",
    )
    for columns in (
        ["tenant_id", "occurred_at", "id"],
        ["occurred_at", "id"],
        ["origin_journal", "origin_seq"],
    ):
        op.create_index(op.f(f"ix_audit_events_{'_'.join(columns)}"), "audit_events", columns)
    op.create_index(
        op.f("ix_audit_events_committed_at"),
        "audit_events",
        ["committed_at"],
        postgresql_using="brin",
    )
    _secure("audit_events")
    op.execute(
        "create policy own on audit_events for select to sightline_tenant"
        f" using (tenant_id = {OWN})"
    )
    op.execute(
        "create policy looked_at on audit_events for select to sightline_global"
        f" using ({LOOKING} and (tenant_id is null or tenant_id not in {EXCLUDED}))"
    )
    op.execute(
        "create policy appended on audit_events for insert to sightline_ledger with check (true)"
    )
    op.execute("grant select on audit_events to sightline_tenant, sightline_global")
    op.execute("grant insert on audit_events to sightline_ledger")
    # What the relay asks, which sent these events itself, and what `audit verify` counts.
    op.execute("create policy counted on audit_events for select to sightline_ledger using (true)")
    op.execute(
        "grant select (id, origin_journal, origin_seq, occurred_at, request_id)"
        " on audit_events to sightline_ledger"
    )
    op.execute(
        """
        create function refuse_rewriting() returns trigger language plpgsql as $$
        begin
          raise exception 'the ledger is append-only' using errcode = 'insufficient_privilege';
        end $$
        """
    )
    op.execute(
        "create trigger append_only before update or delete or truncate on audit_events"
        " for each statement execute function refuse_rewriting()"
    )
    op.execute(ENSURE_PARTITION)
    op.execute("revoke execute on function ensure_audit_partition from public")
    op.execute("grant execute on function ensure_audit_partition to sightline_ledger")
    # The first months; later ones are made by beat, and by the first event of a month without.
    op.execute(
        "select ensure_audit_partition("
        "cast(now() at time zone 'UTC' + months * interval '1 month' as date))"
        " from generate_series(0, 2) months"
    )
    op.create_table(
        "audit_quarantine",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", Timestamp, server_default=NOW, nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("delivery", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_audit_quarantine")),
    )
    op.execute("grant insert on audit_quarantine to sightline_ledger")
    op.execute("grant select (digest, received_at) on audit_quarantine to sightline_ledger")


def _create_cache_generations() -> None:
    op.create_table(
        "cache_generations",
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("tag", name=op.f("pk_cache_generations")),
    )
    op.execute(
        "grant select, insert, update on cache_generations"
        " to sightline_tenant, sightline_global, sightline_identity, sightline_ledger"
    )


def _secure(table: str) -> None:
    op.execute(f"alter table {table} enable row level security")
    op.execute(f"alter table {table} force row level security")


def _scope_policies(table: str, key: str, *, nullable: bool = False) -> None:
    """One's own rows in a tenant's scope; in a look those of the tenants that are not left out."""
    own = f"{key} = {OWN}"
    included = f"{key} not in {EXCLUDED}"
    if nullable:
        included = f"({key} is null or {included})"
    looked_at = f"{LOOKING} and {included}"
    for name, role, rows in (
        ("own", "sightline_tenant", own),
        ("looked_at", "sightline_global", looked_at),
    ):
        op.execute(f"create policy {name} on {table} to {role} using ({rows}) with check ({rows})")
