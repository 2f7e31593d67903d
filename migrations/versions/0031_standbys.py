"""Let `flask doctor` see how far standbys are behind, where the tables' owner may see that."""

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

# The view hides positions from whoever has not the rights of `pg_read_all_stats`. Of all that this
# would tell, the function tells two numbers.
STANDBYS_BEHIND = """
create function standbys_behind(out bytes bigint, out seconds double precision)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select max(greatest(0, pg_wal_lsn_diff(pg_current_wal_flush_lsn(), flush_lsn)))::bigint,
    max(extract(epoch from flush_lag))
  from pg_stat_replication where flush_lsn is not null
$$
"""


def upgrade() -> None:
    op.execute(STANDBYS_BEHIND)
    op.execute("revoke execute on function standbys_behind from public")
    op.execute("grant execute on function standbys_behind to sightline_ledger")
