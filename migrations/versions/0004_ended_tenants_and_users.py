"""Let tenants and users end, and users be renamed. Rows that name them stay as they are."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("tenants", "principals"):
        op.add_column(
            table, sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True)
        )
    op.execute("grant update (email, ended_at) on principals to sightline_identity")
