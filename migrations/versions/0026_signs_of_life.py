"""Signs of life of workers and beat, so that it shows where none is at work."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "signs_of_life",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("seen_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("kind in ('worker', 'beat')", name=op.f("ck_signs_of_life_kind")),
        sa.CheckConstraint("length(host) <= 255", name=op.f("ck_signs_of_life_host")),
        sa.CheckConstraint("length(version) <= 100", name=op.f("ck_signs_of_life_version")),
        sa.PrimaryKeyConstraint("kind", "host", "pid", name=op.f("pk_signs_of_life")),
    )
    op.execute("grant select on signs_of_life to sightline_identity")
    op.execute("grant select, insert, update, delete on signs_of_life to sightline_maintenance")
