"""Take turns by rows that no login can lock, instead of advisory locks that any login can hold.

A function that runs with the owner's rights locks the row, and only the role that needs the turn
may call it. So whoever has the web's password holds up no append, no trigger and no task.
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

TAKE_TURN = """
create function take_turn_to_{act}() returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform from public.turns where act = '{act}' for update;
end $$
"""

CALLERS = {
    "append": "sightline_ledger",
    "quarantine": "sightline_ledger",
    "simulate": "sightline_maintenance",
}
"""The role that takes each turn. That of making a partition is taken by its function itself."""

# The functions are those of migrations 0022 and 0001, but for their locks.
REPLACE_LOCK = """
do $replace$
declare
  before constant text := pg_get_functiondef('{function}'::regprocedure);
  after constant text := replace(before, '{advisory}',
    'perform from public.turns where act = ''{act}'' for update');
begin
  if before = after then
    raise exception 'no advisory lock in {function}';
  end if;
  execute after;
end $replace$
"""

REPLACED = (
    ("record_change(text, text, uuid)", "perform pg_advisory_xact_lock(1365733662)", "append"),
    (
        "ensure_audit_partition(date)",
        "perform pg_advisory_xact_lock(hashtext(''ensure_audit_partition''))",
        "partition",
    ),
)


def upgrade() -> None:
    op.create_table("turns", sa.Column("act", sa.String(), primary_key=True))
    for act in (*CALLERS, "partition"):
        _run(f"insert into turns values ('{act}')")  # noqa: S608 - constants
    for act, role in CALLERS.items():
        _run(TAKE_TURN.format(act=act))
        _run(f"revoke execute on function take_turn_to_{act} from public")
        _run(f"grant execute on function take_turn_to_{act} to {role}")
    for function, advisory, act in REPLACED:
        _run(REPLACE_LOCK.format(function=function, advisory=advisory, act=act))


def _run(statement: str) -> None:
    """Run a statement as it is: its colons and percent signs stand for themselves."""
    op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
