"""Simulations that a worker carries out, and their results."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from webapp.db.tenant_tables import create_tenant_table

revision = "0016"
down_revision = "0009"
branch_labels = None
depends_on = None

MAX_BYTES = 2**18


def upgrade() -> None:
    moment = postgresql.TIMESTAMP(timezone=True)
    create_tenant_table(
        "simulations",
        sa.Column("asked_by", sa.Uuid(), nullable=False),
        sa.Column("turn", sa.Uuid(), nullable=False),
        sa.Column("access_id", sa.Uuid(), nullable=True),
        sa.Column("excluded_tenant_ids", postgresql.ARRAY(sa.Uuid()), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("asked_at", moment, nullable=False),
        sa.Column("until", moment, nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state in ('queued', 'running', 'done', 'failed')", name=op.f("ck_simulations_state")
        ),
        sa.CheckConstraint(
            f"octet_length(question) <= {MAX_BYTES}", name=op.f("ck_simulations_question")
        ),
        sa.CheckConstraint(
            f"octet_length(result) <= {MAX_BYTES}", name=op.f("ck_simulations_result")
        ),
    )
    op.create_index(
        "uq_simulations_turn",
        "simulations",
        ["turn"],
        unique=True,
        postgresql_where=sa.text("state in ('queued', 'running')"),
    )
    op.create_index(op.f("ix_simulations_state_asked_at"), "simulations", ["state", "asked_at"])
    op.create_index(op.f("ix_simulations_until"), "simulations", ["until"])
