"""What decisions need: roles to read rules by, grants and who approved them, what to tell whom."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Timestamp = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")
Texts = postgresql.ARRAY(sa.Text())
Uuids = postgresql.ARRAY(sa.Uuid())

OWN = "(select nullif(current_setting('sightline.tenant_id', true), '')::uuid)"
LOOKING = "(select coalesce(current_setting('sightline.look', true), '')) <> ''"
EXCLUDED = (
    "(select unnest(string_to_array(current_setting('sightline.excluded', true), ',')::uuid[]))"
)
MYSELF = "(select nullif(current_setting('sightline.principal_id', true), '')::uuid)"
ADMINISTERED = (
    "(select unnest(string_to_array(current_setting('sightline.administers', true), ',')::uuid[]))"
)
OWN_JOURNAL = "'5167711e-0000-4000-8000-000000000001'::uuid"
STAFF = "(select coalesce(current_setting('sightline.staff', true), '')) <> ''"

FIRST_RULE = """
with rule as (
  insert into rules (id, name, description, effect, subjects, surfaces, reasons, windows, networks,
    mfa, min_approvals, approver_roles, enabled, version, created_by, updated_by)
  select gen_random_uuid(), 'Owners administer the platform''s rules',
    'Without it nobody could write the first rule, or mend the last one.', 'allow',
    '{"roles": ["owner"], "users": []}', array['admin.rules.*'], '{}', '[]', '{}',
    false, 1, '{}', true, 1, 'sightline', 'sightline'
  where not exists (select from rules where tenant_id is null)
  returning *
)
insert into rule_versions (id, rule_id, version, change, changed_at, changed_by, snapshot)
select gen_random_uuid(), id, 1, 'created', created_at, created_by, jsonb_build_object(
  'id', id, 'tenant', null, 'name', name, 'description', description, 'effect', effect,
  'subjects', subjects, 'surfaces', surfaces, 'reasons', reasons, 'ticket', ticket,
  'windows', windows, 'networks', networks, 'mfa', mfa, 'max_minutes', max_minutes,
  'min_approvals', min_approvals, 'approver_roles', approver_roles, 'enabled', enabled,
  'starts_at', starts_at, 'ends_at', ends_at, 'version', version,
  'created_at', created_at, 'created_by', created_by,
  'updated_at', updated_at, 'updated_by', updated_by)
from rule
"""


def upgrade() -> None:
    _extend_identity()
    _open_rules_to_the_policy()
    _create_grants()
    _create_notices()
    _create_elevations()
    _show_global_looks_to_tenants()
    op.execute(
        "grant select, insert, update on cache_generations"
        " to sightline_policy, sightline_principal, sightline_maintenance"
    )


def _extend_identity() -> None:
    op.add_column(
        "api_tokens",
        sa.Column("mfa", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    op.drop_constraint(op.f("ck_platform_roles_role"), "platform_roles")
    op.create_check_constraint(
        op.f("ck_platform_roles_role"),
        "platform_roles",
        "role in ('support', 'engineer', 'auditor', 'owner', 'service')",
    )


def _open_rules_to_the_policy() -> None:
    """Those that may be found by the surface: an index for the platform's, one for tenants'."""
    in_use = "deleted_at is null and enabled"
    for name, whose in (
        ("ix_rules_surfaces_platform", "tenant_id is null"),
        ("ix_rules_surfaces_narrowing", "tenant_id is not null and effect <> 'allow'"),
    ):
        op.create_index(
            name,
            "rules",
            ["surfaces"],
            postgresql_using="gin",
            # Rules change seldom: nothing is to be sifted through that waits for its place.
            postgresql_with={"fastupdate": "off"},
            postgresql_where=sa.text(f"{whose} and {in_use}"),
        )
    for table in ("rules", "tenants"):
        op.execute(f"create policy weighed on {table} for select to sightline_policy using (true)")
        op.execute(f"grant select on {table} to sightline_policy")
    # Row level security is forced on the owner too, who is in no scope.
    for table in ("rules", "rule_versions"):
        op.execute(f"alter table {table} no force row level security")
    op.execute(FIRST_RULE)
    for table in ("rules", "rule_versions"):
        op.execute(f"alter table {table} force row level security")


def _create_grants() -> None:
    op.create_table(
        "grants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("principal_id", sa.Uuid(), nullable=False),
        sa.Column("principal_email", sa.Text(), nullable=False),
        sa.Column("surfaces", Texts, nullable=False),
        sa.Column("reason_code", sa.Text(), nullable=False),
        sa.Column("ticket", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("minutes", sa.Integer(), nullable=False),
        sa.Column("rule_ids", Uuids, nullable=False),
        sa.Column("passed_over", Uuids, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("requested_at", Timestamp, nullable=False),
        sa.Column("starts_at", Timestamp, nullable=True),
        sa.Column("ends_at", Timestamp, nullable=False),
        sa.Column("closed_at", Timestamp, nullable=True),
        sa.Column("closed_by", sa.Text(), nullable=True),
        sa.Column("reviewed_at", Timestamp, nullable=True),
        sa.Column("reviewed_by", sa.Text(), nullable=True),
        sa.Column("review", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.CheckConstraint("kind in ('approval', 'break_glass')", name=op.f("ck_grants_kind")),
        sa.CheckConstraint(
            "state in ('requested', 'approved', 'denied', 'revoked', 'expired')",
            name=op.f("ck_grants_state"),
        ),
        sa.CheckConstraint("minutes > 0", name=op.f("ck_grants_minutes")),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_grants_principal_id_principals")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_grants_tenant_id_tenants")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
        sa.UniqueConstraint(
            "tenant_id",
            "id",
            name=op.f("uq_grants_tenant_id_id"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index(
        op.f("ix_grants_tenant_id_requested_at_id"), "grants", ["tenant_id", "requested_at", "id"]
    )
    op.create_index(op.f("ix_grants_requested_at_id"), "grants", ["requested_at", "id"])
    op.create_index(
        op.f("ix_grants_principal_id_requested_at"), "grants", ["principal_id", "requested_at"]
    )
    op.create_index(
        "ix_grants_ends_at",
        "grants",
        ["ends_at"],
        postgresql_where=sa.text("state in ('requested', 'approved')"),
    )
    # Whoever has broken glass cannot break it again until somebody else has looked at it.
    op.create_index(
        "uq_grants_unreviewed",
        "grants",
        ["principal_id"],
        unique=True,
        postgresql_where=sa.text("kind = 'break_glass' and reviewed_at is null"),
    )
    op.create_table(
        "grant_approvals",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("grant_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=True),
        sa.Column("approver_id", sa.Uuid(), nullable=False),
        sa.Column("approver_email", sa.Text(), nullable=False),
        sa.Column("roles", Texts, nullable=False),
        sa.Column("approved_at", Timestamp, nullable=False),
        sa.ForeignKeyConstraint(
            ["approver_id"],
            ["principals.id"],
            name=op.f("fk_grant_approvals_approver_id_principals"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "grant_id"],
            ["grants.tenant_id", "grants.id"],
            name=op.f("fk_grant_approvals_tenant_id_grant_id_grants"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grant_approvals")),
        sa.UniqueConstraint(
            "tenant_id",
            "grant_id",
            "approver_id",
            name=op.f("uq_grant_approvals_tenant_id_grant_id_approver_id"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    for table, mine in (("grants", f"principal_id = {MYSELF} or "), ("grant_approvals", "")):
        _secure(table)
        own = f"tenant_id = {OWN}"
        looked_at = f"{LOOKING} and (tenant_id is null or tenant_id not in {EXCLUDED})"
        concerned = f"{mine}tenant_id in {ADMINISTERED} or {STAFF}"
        for name, role, rows in (
            ("own", "sightline_tenant", own),
            ("looked_at", "sightline_global", looked_at),
            ("concerned", "sightline_principal", concerned),
            ("kept", "sightline_maintenance", "true"),
        ):
            op.execute(
                f"create policy {name} on {table} to {role} using ({rows}) with check ({rows})"
            )
        op.execute(f"create policy weighed on {table} for select to sightline_policy using (true)")
        op.execute(
            f"grant select on {table} to sightline_tenant, sightline_global, sightline_policy,"
            " sightline_principal, sightline_maintenance"
        )
    op.execute("grant insert, update on grants to sightline_principal, sightline_maintenance")
    op.execute("grant insert on grant_approvals to sightline_principal")
    # To find out whom to ask and whom to tell, and what they are called.
    for table in ("tenants", "memberships"):
        op.execute(
            f"create policy kept on {table} for select to sightline_maintenance using (true)"
        )
    op.execute(
        "create policy asked_about on tenants for select to sightline_principal using (true)"
    )
    op.execute("grant select on tenants to sightline_principal, sightline_maintenance")
    op.execute("grant select on memberships, principals, platform_roles to sightline_maintenance")
    # An expiry is recorded with the change that it records, in one transaction.
    op.execute(
        "create policy closed on audit_events for insert to sightline_maintenance with check (true)"
    )
    op.execute(
        "create policy numbered on audit_events for select to sightline_maintenance using (true)"
    )
    op.execute("grant insert on audit_events to sightline_maintenance")
    op.execute(
        "grant select (id, origin_journal, origin_seq, occurred_at) on audit_events"
        " to sightline_maintenance"
    )
    # So is what an operator's command changes.
    numbered_here = f"origin_journal = {OWN_JOURNAL}"
    for role in ("sightline_identity", "sightline_global"):
        op.execute(
            f"create policy operated_{role} on audit_events for insert to {role}"
            f" with check ({numbered_here})"
        )
        op.execute(f"grant insert on audit_events to {role}")
    op.execute(
        "create policy numbered_identity on audit_events for select to sightline_identity"
        f" using ({numbered_here})"
    )
    op.execute(
        "grant select (id, origin_journal, origin_seq, occurred_at) on audit_events"
        " to sightline_identity"
    )
    op.execute(
        "grant execute on function ensure_audit_partition"
        " to sightline_maintenance, sightline_identity, sightline_global"
    )


def _create_notices() -> None:
    """What is to be told, kept with the change that it tells of until it has arrived."""
    op.create_table(
        "notices",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("grant_id", sa.Uuid(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("tenants", Uuids, nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=True),
        sa.Column("body", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", Timestamp, nullable=False),
        sa.Column("due_at", Timestamp, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("sent_at", Timestamp, nullable=True),
        sa.CheckConstraint("channel in ('mail', 'webhook')", name=op.f("ck_notices_channel")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
    )
    op.create_index(
        "ix_notices_due_at", "notices", ["due_at"], postgresql_where=sa.text("due_at is not null")
    )
    op.execute("grant insert on notices to sightline_principal")
    op.execute("grant select, insert, update, delete on notices to sightline_maintenance")


def _create_elevations() -> None:
    """What was answered to another service, by the key that it asked with."""
    op.create_table(
        "elevations",
        sa.Column("service_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("asked_at", Timestamp, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["service_id"], ["principals.id"], name=op.f("fk_elevations_service_id_principals")
        ),
        sa.PrimaryKeyConstraint("service_id", "key", name=op.f("pk_elevations")),
    )
    op.execute("grant select, insert, update on elevations to sightline_principal")
    _secure("elevations")
    mine = f"service_id = {MYSELF}"
    op.execute(
        "create policy mine on elevations to sightline_principal"
        f" using ({mine}) with check ({mine})"
    )


def _show_global_looks_to_tenants() -> None:
    """A tenant sees every look at it: also those at all tenants that did not leave it out. Who was
    denied, and what the platform changes, is not for other tenants to know."""
    op.execute("drop policy own on audit_events")
    looked_over = (
        "scope_kind = 'global' and kind = 'look' and effect = 'allowed'"
        f" and not ({OWN} = any (excluded_tenant_ids))"
    )
    op.execute(
        "create policy own on audit_events for select to sightline_tenant"
        f" using (tenant_id = {OWN} or ({OWN} is not null and {looked_over}))"
    )


def _secure(table: str) -> None:
    op.execute(f"alter table {table} enable row level security")
    op.execute(f"alter table {table} force row level security")
