"""Keep each event's origin signature beside it, and the public keys of those that sign.

AUDIT_MAC_KEY is gone: what its fingerprints say of rotations stays in the ledger.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

APPEND_EVENTS = """
create function append_events(events json, signatures text[]) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  appended bigint;
begin
  if cardinality(signatures) is distinct from json_array_length(events)
    or array_position(signatures, null) is not null
  then
    raise exception 'each event has a signature' using errcode = 'check_violation';
  end if;
  insert into public.audit_events (id, tenant_id, tenant, occurred_at, kind, actor_id, actor_email,
      surface, reason_code, ticket, scope_kind, effect, outcome, request_id, origin_journal,
      origin_seq, excluded_digest, event, origin_signature)
    select (own ->> 'id')::uuid, (scope ->> 'tenant_id')::uuid, scope ->> 'tenant',
      (own ->> 'occurred_at')::timestamptz, own ->> 'kind', (actor ->> 'id')::uuid,
      actor ->> 'email', own ->> 'surface', reason ->> 'code', reason ->> 'ticket',
      scope ->> 'kind', decision ->> 'effect', own ->> 'outcome', own -> 'request' ->> 'id',
      (origin ->> 'journal')::uuid, (origin ->> 'seq')::bigint,
      decision -> 'excluded' ->> 'digest', event, signature
    from (
      select event, signature, own, own -> 'actor' as actor, own -> 'decision' as decision,
        own -> 'origin' as origin, own -> 'reason' as reason, own -> 'scope' as scope
      from (
        select event, event::jsonb as own, signature
          from rows from (json_array_elements(events), unnest(signatures)) each(event, signature)
        offset 0  -- or each use of a column would parse the event again
      ) parsed
      offset 0
    ) parts
    on conflict do nothing;
  get diagnostics appended = row_count;
  return appended;
end $$
"""

RECORD_SIGNING_KEYS = """
create function record_signing_keys() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  act text;
  key public.signing_keys;
begin
  if tg_op = 'INSERT' then
    act := 'register';
  elsif tg_op = 'DELETE' then
    act := 'delete';
  elsif (old.public_key, old.process, old.label, old.registered_at)
    is distinct from (new.public_key, new.process, new.label, new.registered_at)
  then
    act := 'change';
  elsif old.retired_at is null and new.retired_at is not null then
    act := 'retire';
  elsif old.retired_at is not null and new.retired_at is null then
    act := 'register';
  elsif old.retired_at is distinct from new.retired_at then
    act := 'change';
  else
    return null;
  end if;
  key := case when tg_op = 'DELETE' then old else new end;
  perform public.record_change('ledger.keys.' || act,
    'ledger keys ' || act || ' ' || key.process || ' ' || key.fingerprint || ' ' || key.label);
  return null;
end $$;

create constraint trigger recorded after insert or delete or update on signing_keys
  deferrable initially deferred for each row execute function record_signing_keys();

create trigger recorded_whole after truncate on signing_keys
  for each statement execute function record_truncation()
"""

NAMES = "'SECRET_KEY', 'WEBHOOK_SECRET', 'OPERATIONS_TOKEN'"


def upgrade() -> None:
    _make_registry()
    for table in ("audit_events", "audit_contradictions"):
        op.add_column(table, sa.Column("origin_signature", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ck_audit_events_origin_signature"),
        "audit_events",
        "length(origin_signature) = 103",
    )
    _run("drop function append_events(json)")
    _run(APPEND_EVENTS)
    _run("revoke execute on function append_events from public")
    _run("grant execute on function append_events to sightline_ledger")
    op.execute("delete from key_uses where name = 'AUDIT_MAC_KEY'")
    op.drop_constraint(op.f("ck_key_uses_name"), "key_uses")
    op.create_check_constraint(op.f("ck_key_uses_name"), "key_uses", f"name in ({NAMES})")


def _make_registry() -> None:
    moment = postgresql.TIMESTAMP(timezone=True)
    op.create_table(
        "signing_keys",
        sa.Column(
            "fingerprint",
            sa.Text(),
            sa.Computed("encode(substr(sha256(public_key), 1, 8), 'hex')", persisted=True),
            nullable=False,
        ),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column(
            "registered_at", moment, server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("retired_at", moment, nullable=True),
        sa.CheckConstraint("length(public_key) = 32", name=op.f("ck_signing_keys_public_key")),
        sa.CheckConstraint(
            "process in ('web', 'worker', 'commands')", name=op.f("ck_signing_keys_process")
        ),
        sa.CheckConstraint("length(label) between 1 and 255", name=op.f("ck_signing_keys_label")),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_signing_keys")),
    )
    op.execute(
        "grant select on signing_keys to sightline_directory, sightline_identity, sightline_ledger,"
        " sightline_log, sightline_sealing"
    )
    op.execute(
        "grant insert (public_key, process, label), update (retired_at) on signing_keys"
        " to sightline_directory"
    )
    _run(RECORD_SIGNING_KEYS)
    _run("revoke execute on function record_signing_keys from public")


def _run(statement: str) -> None:
    """Run a statement as it is: its colons and percent signs stand for themselves."""
    op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
