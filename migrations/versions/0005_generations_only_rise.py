"""Let the application raise generations by a function only, which cannot lower one.

A scope's role that could write the table could lower a generation, and so bring back what had
ended: a list, a role, a revoked token. It could also lock the table against everybody else.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ROLES = (
    "sightline_tenant, sightline_global, sightline_identity, sightline_ledger, sightline_policy,"
    " sightline_principal, sightline_maintenance"
)

# Generations begin at the clock's time: none comes back after the table was emptied or restored.
# In order, so that two that raise the same ones cannot deadlock.
RAISE_GENERATIONS = """
create function raise_generations(tags text[]) returns table (raised text, generation bigint)
language sql security definer
set search_path = pg_catalog, pg_temp
begin atomic
  insert into public.cache_generations as held (tag, generation)
  select wanted, extract(epoch from clock_timestamp()) * 1000000
  from (select distinct unnest(tags) as wanted) given order by wanted
  on conflict (tag) do update set generation = greatest(held.generation + 1, excluded.generation)
  returning held.tag, held.generation;
end
"""


def upgrade() -> None:
    op.execute(RAISE_GENERATIONS)
    op.execute("revoke execute on function raise_generations from public")
    op.execute(f"grant execute on function raise_generations to {ROLES}")
    op.execute(f"revoke insert, update on cache_generations from {ROLES}")
    op.create_check_constraint(
        op.f("ck_cache_generations_tag"), "cache_generations", "length(tag) between 1 and 200"
    )
