"""Say of each delivery in quarantine how large it was and whether it was sealed: both bound it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("authentic", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("size", sa.Integer(), server_default=sa.text("0"), nullable=False),
    ):
        op.add_column("audit_quarantine", column)
    op.execute("update audit_quarantine set size = octet_length(delivery)")
    op.execute("grant select (authentic, size) on audit_quarantine to sightline_ledger")
