"""Keep the public keys that sign a log's checkpoints, for everybody to read.

The private ones are with the workers alone, and a signature does not tell its key.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

READERS = "sightline_log, sightline_sealing, sightline_tenant, sightline_global"


def upgrade() -> None:
    op.create_table(
        "log_keys",
        sa.Column("log", sa.SmallInteger(), nullable=False),
        sa.Column("verifier", sa.Text(), nullable=False),
        sa.Column(
            "since",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("length(verifier) <= 4096", name=op.f("ck_log_keys_verifier")),
        sa.ForeignKeyConstraint(["log"], ["logs.number"], name=op.f("fk_log_keys_log_logs")),
        sa.PrimaryKeyConstraint("log", "verifier", name=op.f("pk_log_keys")),
    )
    op.execute(
        "create trigger append_only before update or delete or truncate on log_keys"
        " for each statement execute function refuse_rewriting()"
    )
    op.execute(f"grant select on log_keys to {READERS}")
    op.execute("grant insert on log_keys to sightline_sealing")
