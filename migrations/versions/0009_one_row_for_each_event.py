"""Let the ledger hold one event for each id and for each number of a journal.

An event's moment is the one inside its id from here on, so that its partition follows from its id.
Events that are there already keep their moments. Their canonical bytes are restored from JSONB, and
get the digest that their journals know them by.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

FUNCTIONS = """
create function event_moment(id uuid) returns timestamptz
language sql immutable strict parallel safe as $$
  -- Whole seconds apart: far in the future, a fraction is lost in a double.
  select to_timestamp(ms / 1000) + ms % 1000 * interval '1 millisecond'
  from (select ('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint) as id(ms)
$$;

create function event_digest(event json) returns bytea
language sql immutable strict parallel safe as $$
  select sha256(convert_to(event::text, 'UTF8'))
$$;

create function number_events() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into public.audit_numbers (journal, seq, event_id)
    select origin_journal, origin_seq, id from fresh;
  return null;
end $$;
"""

# RFC 8785 for what events hold: texts, integers, true, false, null, lists, objects.
CANONICAL = """
create function pg_temp.canonical(value jsonb) returns text language sql as $$
  select case jsonb_typeof(value)
    when 'object' then '{' || coalesce((
      select string_agg(to_json(key)::text || ':' || pg_temp.canonical(inner_value), ','
        order by key collate "C")
      from jsonb_each(value) as each(key, inner_value)), '') || '}'
    when 'array' then '[' || coalesce((
      select string_agg(pg_temp.canonical(inner_value), ',' order by place)
      from jsonb_array_elements(value) with ordinality as each(inner_value, place)), '') || ']'
    else value::text
  end
$$
"""


# Where events of former versions are, it holds for new ones only.
VALIDATE = """
do $$ begin
  alter table audit_events validate constraint ck_audit_events_moment;
exception when check_violation then null;
end $$
"""


def upgrade() -> None:
    op.execute(FUNCTIONS)
    op.execute(CANONICAL)
    op.execute(
        """
        alter table audit_events
          alter column event type json using pg_temp.canonical(event)::json
        """
    )
    op.execute(
        """
        alter table audit_events
          add column digest bytea generated always as (event_digest(event)) stored,
          add constraint ck_audit_events_moment check (occurred_at = event_moment(id)) not valid
        """
    )
    op.execute(VALIDATE)
    op.execute("grant select (digest) on audit_events to sightline_ledger")
    _create_numbers()
    op.create_table(
        "audit_contradictions",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column(
            "received_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("event", postgresql.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", "digest", name=op.f("pk_audit_contradictions")),
    )
    op.execute("grant insert on audit_contradictions to sightline_ledger")
    op.execute(
        "grant select (event_id, digest, received_at) on audit_contradictions to sightline_ledger"
    )


def _create_numbers() -> None:
    """Where two events of former versions have one number, `audit verify` names it."""
    op.create_table(
        "audit_numbers",
        sa.Column("journal", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("journal", "seq", name=op.f("pk_audit_numbers")),
    )
    # Row level security would hide the rows from their owner too.
    op.execute("alter table audit_events no force row level security")
    op.execute(
        "insert into audit_numbers select origin_journal, origin_seq, id from audit_events"
        " on conflict do nothing"
    )
    op.execute("alter table audit_events force row level security")
    op.execute(
        "create trigger append_only before update or delete or truncate on audit_numbers"
        " for each statement execute function refuse_rewriting()"
    )
    op.execute("revoke execute on function number_events from public")
    op.execute(
        "create trigger numbered after insert on audit_events referencing new table as fresh"
        " for each statement execute function number_events()"
    )
