"""Let everybody who may read the log see how much waits for it, and what contradicts it.

The web says so in its metrics, also while no worker runs.
"""

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

READ = {
    "log_queue": "position, problem",
    "log_copies": "host, log, size, compared_at, problem",
    "log_witnesses": "name, log, size, cosigned_at",
}


def upgrade() -> None:
    for table, columns in READ.items():
        op.execute(f"grant select ({columns}) on {table} to sightline_log")
