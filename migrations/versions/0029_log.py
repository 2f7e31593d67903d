"""Keep the log of the ledger: what is sealed, in tiles, and what waits to be sealed.

A trigger queues each event that is committed. One role takes from the queue and writes the log;
another reads what anybody may read of it. Nobody changes an entry, and tiles only grow.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from webapp.db.tenant_tables import secure_tenant_table

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

Timestamp = postgresql.TIMESTAMP(timezone=True)

# Row level security would hide the events from their owner too.
QUEUE_WHAT_IS_THERE = """
alter table audit_events no force row level security;
insert into log_queue (event_id, occurred_at)
  select id, occurred_at from audit_events order by occurred_at, id;
alter table audit_events force row level security
"""

QUEUE_EVENTS = """
create function queue_events() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into public.log_queue (event_id, occurred_at) select id, occurred_at from fresh;
  return null;
end $$;

create trigger queued after insert on audit_events referencing new table as fresh
  for each statement execute function queue_events()
"""

GROW = """
create function grow_only() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op <> 'UPDATE' then
    raise exception 'the log is append-only' using errcode = 'insufficient_privilege';
  elsif tg_table_name = 'log_tiles' then
    if (old.log, old.level, old.n) <> (new.log, new.level, new.n)
      or substr(new.hashes, 1, length(old.hashes)) <> old.hashes
    then
      raise exception 'a tile only grows' using errcode = 'insufficient_privilege';
    end if;
  elsif tg_table_name = 'log_series' then
    if (old.log, old.label) <> (new.log, new.label) or old.tenant_id is distinct from new.tenant_id
      or new.last < old.last
    then
      raise exception 'the numbers of a series only rise' using errcode = 'insufficient_privilege';
    end if;
  elsif (old.number, old.origin, old.series_secret) <> (new.number, new.origin, new.series_secret)
    or new.size < old.size or old.state = 'closed'
  then
    raise exception 'a log only grows, and a closed one stays' using
      errcode = 'insufficient_privilege';
  end if;
  return new;
end $$;
"""

GROWING = """
create trigger grow before update or delete on {table}
  for each row execute function grow_only();

create trigger append_only before truncate on {table}
  for each statement execute function refuse_rewriting()
"""

READERS = "sightline_log, sightline_sealing, sightline_tenant, sightline_global"


def upgrade() -> None:
    _create_queue()
    _create_logs()
    _create_entries()
    _create_series()
    _create_what_others_have()
    _grant()


def _create_queue() -> None:
    op.create_table(
        "log_queue",
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("occurred_at", Timestamp, nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_log_queue")),
    )
    _run(QUEUE_WHAT_IS_THERE)
    _run(QUEUE_EVENTS)
    _run("revoke execute on function queue_events from public")


def _create_logs() -> None:
    op.create_table(
        "logs",
        sa.Column("number", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("series_secret", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=True),
        sa.Column("signed_at", Timestamp, nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("resumed_by", sa.Uuid(), nullable=True),
        sa.CheckConstraint("length(series_secret) = 32", name=op.f("ck_logs_series_secret")),
        sa.CheckConstraint("length(root) = 32", name=op.f("ck_logs_root")),
        sa.CheckConstraint("state in ('open', 'closed')", name=op.f("ck_logs_state")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_logs")),
        sa.UniqueConstraint("origin", name=op.f("uq_logs_origin")),
    )
    op.create_index(
        "uq_logs_open", "logs", ["state"], unique=True, postgresql_where=sa.text("state = 'open'")
    )


def _create_entries() -> None:
    op.create_table(
        "log_entries",
        sa.Column("log", sa.SmallInteger(), nullable=False),
        sa.Column("index", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=True),
        sa.Column("occurred_at", Timestamp, nullable=True),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("length(leaf) <= 65535", name=op.f("ck_log_entries_leaf")),
        sa.PrimaryKeyConstraint("log", "index", name=op.f("pk_log_entries")),
        sa.UniqueConstraint("event_id", name=op.f("uq_log_entries_event_id")),
    )
    _run(
        "create trigger append_only before update or delete or truncate on log_entries"
        " for each statement execute function refuse_rewriting()"
    )
    op.create_table(
        "log_tiles",
        sa.Column("log", sa.SmallInteger(), nullable=False),
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint(
            "length(hashes) between 32 and 8192 and length(hashes) % 32 = 0",
            name=op.f("ck_log_tiles_hashes"),
        ),
        sa.PrimaryKeyConstraint("log", "level", "n", name=op.f("pk_log_tiles")),
    )
    # Hashes do not compress.
    _run("alter table log_tiles alter column hashes set storage external")


def _create_series() -> None:
    op.create_table(
        "log_series",
        sa.Column("log", sa.SmallInteger(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=True),
        sa.Column("last", sa.BigInteger(), nullable=False),
        _of_log("log_series"),
        sa.PrimaryKeyConstraint("log", "label", name=op.f("pk_log_series")),
    )
    op.create_index(op.f("ix_log_series_tenant_id_log"), "log_series", ["tenant_id", "log"])
    secure_tenant_table("log_series")
    _run(GROW)
    for table in ("logs", "log_tiles", "log_series"):
        _run(GROWING.format(table=table))


def _create_what_others_have() -> None:
    """Make the tables of what witnesses have signed, and of what hosts have copied."""
    op.create_table(
        "log_cosignatures",
        sa.Column("log", sa.SmallInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        _of_log("log_cosignatures"),
        sa.PrimaryKeyConstraint("log", "size", "name", name=op.f("pk_log_cosignatures")),
    )
    op.create_table(
        "log_witnesses",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("log", sa.SmallInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("cosigned_at", Timestamp, nullable=True),
        sa.Column("asked_at", Timestamp, nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_log_witnesses")),
    )
    op.create_table(
        "log_copies",
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("log", sa.SmallInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("compared_at", Timestamp, nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.CheckConstraint("length(host) <= 255", name=op.f("ck_log_copies_host")),
        sa.PrimaryKeyConstraint("host", name=op.f("pk_log_copies")),
    )


def _grant() -> None:
    op.execute(
        "create policy sealing_select on audit_events for select to sightline_sealing using (true)"
    )
    op.execute("grant select on audit_events to sightline_sealing")
    read = "select (number, origin, size, root, checkpoint, signed_at, state, resumed_by)"
    op.execute(f"grant {read} on logs to {READERS}")
    op.execute(f"grant select on log_entries, log_tiles, log_cosignatures to {READERS}")
    op.execute("grant select, insert, update on logs, log_tiles to sightline_sealing")
    op.execute("grant insert on log_entries to sightline_sealing")
    op.execute("grant select, update (problem), delete on log_queue to sightline_sealing")
    op.execute("grant insert, delete on log_cosignatures to sightline_sealing")
    op.execute(
        "grant select, insert, update, delete on log_witnesses, log_copies to sightline_sealing"
    )


def _of_log(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["log"], ["logs.number"], name=op.f(f"fk_{table}_log_logs"))


def _run(statement: str) -> None:
    """Run a statement as it is: its colons and percent signs stand for themselves."""
    op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
