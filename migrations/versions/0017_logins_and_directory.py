"""Let the web read identity and never write it, and only one role append to the ledger.

Tenants, users, roles and tokens are administered as `sightline_directory`, which no server may
become. A process asks which of its events are committed as `sightline_relay`, which cannot append.
What records its own change appends as `sightline_ledger`, in the same transaction.
"""

from alembic import op

from webapp.db.tenant_tables import secure_tenant_table

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

APPENDERS_OF_OWN_CHANGES = "sightline_identity, sightline_global, sightline_maintenance"


def upgrade() -> None:
    _split_identity()
    _let_one_role_append()


def _split_identity() -> None:
    for table in ("tenants", "memberships"):
        secure_tenant_table(table)
    op.execute("revoke update (email, ended_at) on principals from sightline_identity")
    for table, privileges in (
        ("principals", "select, insert, update (email, ended_at)"),
        ("platform_roles", "select, insert, delete"),
        ("api_tokens", "select, insert, update"),
    ):
        op.execute(f"revoke insert, update, delete on {table} from sightline_identity")
        op.execute(f"grant {privileges} on {table} to sightline_directory")
    op.execute(
        "grant select (id, last_used_at), update (last_used_at) on api_tokens"
        " to sightline_maintenance"
    )
    op.execute("grant select on cache_generations to sightline_directory")
    op.execute("grant execute on function raise_generations to sightline_directory")


def _let_one_role_append() -> None:
    for policy in (
        "closed",
        "numbered",
        "operated_sightline_identity",
        "operated_sightline_global",
        "numbered_identity",
    ):
        op.execute(f"drop policy {policy} on audit_events")
    op.execute(f"revoke insert on audit_events from {APPENDERS_OF_OWN_CHANGES}")
    op.execute(
        "revoke select (id, origin_journal, origin_seq, occurred_at) on audit_events"
        " from sightline_identity, sightline_maintenance"
    )
    op.execute(f"revoke execute on function ensure_audit_partition from {APPENDERS_OF_OWN_CHANGES}")
    op.execute(
        "create policy relay_select on audit_events for select to sightline_relay using (true)"
    )
    op.execute("grant select (id, digest) on audit_events to sightline_relay")
    op.execute("grant select (event_id, digest) on audit_contradictions to sightline_relay")
