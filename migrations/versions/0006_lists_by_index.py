"""Give every filter of a list an index, so that a page costs the same whatever the table holds.

The ledger's rows are written anew once, for the column that leads a tenant to what it sees. Readers
of the ledger wait for it; accesses do not, since the journals keep their events meanwhile.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

FILTERED = (
    "actor_email",
    "tenant",
    "surface",
    "reason_code",
    "ticket",
    "kind",
    "effect",
    "outcome",
    "request_id",
)


def upgrade() -> None:
    op.execute(
        """
        alter table audit_events
          alter column surface type text collate "C",
          add column visible_to uuid generated always as (
            case
              when tenant_id is not null then tenant_id
              when scope_kind = 'global' and kind = 'access' and effect = 'allowed'
                then '00000000-0000-0000-0000-000000000000'::uuid
            end
          ) stored
        """
    )
    _create_indexes("audit_events", ["visible_to", "occurred_at", "id"])
    for column in FILTERED:
        _create_indexes(
            "audit_events",
            [column, "occurred_at", "id"],
            ["visible_to", column, "occurred_at", "id"],
        )
    for column in ("effect", "enabled"):
        for order in ("name", "created_at", "updated_at"):
            _create_indexes("rules", [column, order, "id"], where="deleted_at is null")
    for column in ("state", "kind", "principal_email"):
        _create_indexes("grants", [column, "requested_at", "id"])


def _create_indexes(table: str, *all_columns: list[str], where: str | None = None) -> None:
    for columns in all_columns:
        op.create_index(
            op.f(f"ix_{table}_{'_'.join(columns)}"),
            table,
            columns,
            postgresql_where=sa.text(where) if where else None,
        )
