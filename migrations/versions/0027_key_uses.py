"""Keep which keys processes have used, by fingerprint, so that each rotation is recorded."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

NAMES = "'SECRET_KEY', 'AUDIT_MAC_KEY', 'WEBHOOK_SECRET', 'OPERATIONS_TOKEN'"

# Each new row becomes an event. Whoever has the web's password makes no more of them than this.
NOTE_KEY = """
create function note_key(named text, print text, from_host text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from public.key_uses where name = named and fingerprint = print) then
    return;
  end if;
  if (select count(*) from public.key_uses where first_used_at > now() - interval '1 day') >= 20
  then
    raise exception 'too many new keys in a day' using errcode = 'check_violation';
  end if;
  insert into public.key_uses (name, fingerprint, host, first_used_at, recorded)
    values (named, print, from_host, clock_timestamp(),
      not exists (select from public.key_uses where name = named))
    on conflict do nothing;
end $$
"""


def upgrade() -> None:
    op.create_table(
        "key_uses",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("first_used_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("recorded", sa.Boolean(), nullable=False),
        sa.CheckConstraint(f"name in ({NAMES})", name=op.f("ck_key_uses_name")),
        sa.CheckConstraint("fingerprint ~ '^[0-9a-f]{16}$'", name=op.f("ck_key_uses_fingerprint")),
        sa.CheckConstraint("length(host) <= 255", name=op.f("ck_key_uses_host")),
        sa.PrimaryKeyConstraint("name", "fingerprint", name=op.f("pk_key_uses")),
    )
    op.execute("grant select on key_uses to sightline_identity")
    op.execute("grant select, update on key_uses to sightline_maintenance")
    _run(NOTE_KEY)
    _run("revoke execute on function note_key from public")
    _run("grant execute on function note_key to sightline_identity, sightline_maintenance")


def _run(statement: str) -> None:
    """Run a statement as it is: its colons and percent signs stand for themselves."""
    op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
