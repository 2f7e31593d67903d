"""Record each change of tenants, users, roles and tokens by a trigger, whoever makes it.

The event is committed with its change: that of a command, of a DBA in psql, or of the tables'
owner. Tokens are minted and revoked by functions, which check what they are given.
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

# The bytes are those of webapp/audit/event.py: RFC 8785, as the whole ledger has them. The lock and
# the journal are those of webapp/audit/append.py.
RECORD_CHANGE = """
create function record_change(surface text, words text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  own constant uuid := '5167711e-0000-4000-8000-000000000001';
  nobody constant uuid := '00000000-0000-0000-0000-000000000000';
  -- Whoever connects may call themselves so; the login says who it was.
  by_command constant boolean := current_setting('application_name') = 'sightline';
  method constant text := case when by_command then 'CLI' else 'SQL' end;
  path constant text := case when by_command then 'flask ' || words else words end;
  -- The same in all events of a transaction.
  request constant text := md5(pg_current_xact_id()::text || ' ' || transaction_timestamp()::text);
  us bigint;
  made uuid;
  moment timestamptz;
  number bigint;
  event text;
begin
  perform pg_advisory_xact_lock(1365733662);
  us := extract(epoch from clock_timestamp()) * 1000000;
  -- RFC 9562, method 3: the microseconds keep the events of a transaction in order.
  made := lpad(to_hex(us / 1000), 12, '0') || '7' || lpad(to_hex(us % 1000 * 4096 / 1000), 3, '0')
    || substr(translate(gen_random_uuid()::text, '-', ''), 17);
  moment := public.event_moment(made);
  perform public.ensure_audit_partition(moment::date);
  select coalesce(max(seq), 0) + 1 into number from public.audit_numbers where journal = own;
  event := '{"actor":{"email":"operator","id":"' || nobody
    || '","mfa":false,"roles":[],"token_id":null},"decision":{"effect":"allowed","excluded":null,'
    || '"grant_ids":[],"policy_version":null,"rule_ids":[]},"http_status":null,"id":"' || made
    || '","kind":"change","occurred_at":"' || to_char(moment, 'YYYY-MM-DD"T"HH24:MI:SS')
    || case when us / 1000 % 1000 = 0 then '' else to_char(moment, '.US') end
    || 'Z","origin":{"journal":"' || own || '","seq":' || number
    || '},"outcome":"served","reason":null,"repeats":1,"request":{"id":"' || request
    || '","ip":null,"method":"' || method || '","path":' || to_json(path)
    || ',"user_agent":' || to_json(session_user::text)
    || '},"rows":1,"scope":{"kind":"global","tenant":null,"tenant_id":null},"surface":'
    || to_json(surface) || '}';
  insert into public.audit_events (id, occurred_at, kind, actor_id, actor_email, surface,
      scope_kind, effect, outcome, request_id, origin_journal, origin_seq, excluded_tenant_ids,
      event)
    values (made, moment, 'change', nobody, 'operator', surface, 'global', 'allowed', 'served',
      request, own, number, '{}', event::json);
  if not by_command then
    -- No process of the application tells the caches.
    perform public.raise_generations(array['identity']);
  end if;
end $$
"""

NAMES = """
create function user_name(user_id uuid) returns text language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((select email from public.principals where id = user_id), user_id::text)
$$;

create function tenant_name(of_tenant uuid) returns text language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((select slug from public.tenants where id = of_tenant), of_tenant::text)
$$
"""

RECORDERS = {
    "tenants": """
  if tg_op = 'INSERT' then
    perform public.record_change('tenants.create', 'tenants create ' || new.slug);
  elsif tg_op = 'DELETE' then
    perform public.record_change('tenants.delete', 'tenants delete ' || old.slug);
  else
    if (old.slug, old.name) is distinct from (new.slug, new.name) then
      perform public.record_change('tenants.rename', 'tenants rename ' || old.slug
        || case when old.slug <> new.slug then ' --slug ' || new.slug else '' end
        || case when old.name <> new.name then ' --name ' || new.name else '' end);
    end if;
    if old.ended_at is distinct from new.ended_at then
      if old.ended_at is null then
        perform public.record_change('tenants.end', 'tenants end ' || new.slug);
      else
        perform public.record_change('tenants.change', 'tenants change the end of ' || new.slug);
      end if;
    end if;
    if (old.id, old.created_at) is distinct from (new.id, new.created_at) then
      perform public.record_change('tenants.change', 'tenants change ' || new.slug);
    end if;
  end if;
""",
    "principals": """
  if tg_op = 'INSERT' then
    perform public.record_change('users.create', 'users create ' || new.email);
  elsif tg_op = 'DELETE' then
    perform public.record_change('users.delete', 'users delete ' || old.email);
  else
    if old.email <> new.email then
      perform public.record_change('users.rename',
        'users rename ' || old.email || ' ' || new.email);
    end if;
    if old.ended_at is distinct from new.ended_at then
      if old.ended_at is null then
        perform public.record_change('users.end', 'users end ' || new.email);
      else
        perform public.record_change('users.change', 'users change the end of ' || new.email);
      end if;
    end if;
    if (old.id, old.created_at) is distinct from (new.id, new.created_at) then
      perform public.record_change('users.change', 'users change ' || new.email);
    end if;
  end if;
""",
    "platform_roles": """
  if tg_op <> 'INSERT' then
    perform public.record_change('users.revoke',
      'users revoke ' || public.user_name(old.principal_id) || ' ' || old.role);
  end if;
  if tg_op <> 'DELETE' then
    perform public.record_change('users.grant',
      'users grant ' || public.user_name(new.principal_id) || ' ' || new.role);
  end if;
""",
    "memberships": """
  if tg_op = 'DELETE' or tg_op = 'UPDATE'
    and (old.tenant_id, old.principal_id) <> (new.tenant_id, new.principal_id)
  then
    perform public.record_change('users.leave', 'users leave '
      || public.user_name(old.principal_id) || ' ' || public.tenant_name(old.tenant_id));
  end if;
  if tg_op = 'INSERT' or tg_op = 'UPDATE' and old is distinct from new then
    perform public.record_change('users.join', 'users join '
      || public.user_name(new.principal_id) || ' ' || public.tenant_name(new.tenant_id)
      || ' ' || new.role);
  end if;
""",
    "api_tokens": """
  if tg_op = 'INSERT' then
    perform public.record_change('tokens.create',
      'tokens create ' || new.id || ' for ' || public.user_name(new.principal_id));
  elsif tg_op = 'DELETE' then
    perform public.record_change('tokens.delete',
      'tokens delete ' || old.id || ' of ' || public.user_name(old.principal_id));
  else
    if old.revoked_at is null and new.revoked_at is not null then
      perform public.record_change('tokens.revoke', 'tokens revoke ' || new.id);
    elsif old.revoked_at is distinct from new.revoked_at then
      perform public.record_change('tokens.change', 'tokens change the end of ' || new.id);
    end if;
    if (old.id, old.principal_id, old.name, old.token_hash, old.created_at, old.expires_at, old.mfa)
      is distinct from
      (new.id, new.principal_id, new.name, new.token_hash, new.created_at, new.expires_at, new.mfa)
    then
      perform public.record_change('tokens.change',
        'tokens change ' || new.id || ' of ' || public.user_name(new.principal_id));
    end if;
  end if;
""",
}
"""What each table's trigger says, in the words of the commands."""

# At the transaction's end: everything else that a command locks is locked by then, so that two that
# record cannot deadlock, and others wait for the journal's lock only while it is committed.
RECORDER = """
create function record_{table}() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  {body}
  return null;
end $$;

create constraint trigger recorded after insert or delete or update{columns} on {table}
  deferrable initially deferred for each row execute function record_{table}();

create trigger recorded_whole after truncate on {table}
  for each statement execute function record_truncation();
"""

RECORD_TRUNCATION = """
create function record_truncation() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform public.record_change(tg_table_name || '.truncate', 'truncate ' || tg_table_name);
  return null;
end $$
"""

COLUMNS = {
    "api_tokens": " of id, principal_id, name, token_hash, created_at, expires_at, revoked_at, mfa"
}
"""All but the time of the last use."""

TOKENS = """
create function mint_token(
  token_id uuid, owner uuid, name text, token_hash bytea, expires_at timestamptz, mfa boolean
) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform from public.principals p where p.id = owner and p.ended_at is null for share;
  if not found then
    raise exception 'there is no such user, or it has ended'
      using errcode = 'foreign_key_violation';
  end if;
  if length(name) not between 1 and 200 then
    raise exception 'a token''s name has 1 to 200 characters' using errcode = 'check_violation';
  end if;
  if expires_at not between clock_timestamp() and clock_timestamp() + interval '3651 days' then
    raise exception 'a token expires within ten years, or never' using errcode = 'check_violation';
  end if;
  insert into public.api_tokens (id, principal_id, name, token_hash, expires_at, mfa)
    values (token_id, owner, name, token_hash, expires_at, mfa);
end $$;

-- There is no way back: what is revoked stays so, with its moment.
create function revoke_tokens(ids uuid[]) returns setof uuid
language sql security definer
set search_path = pg_catalog, pg_temp
begin atomic
  update public.api_tokens set revoked_at = clock_timestamp()
    where id = any (ids) and revoked_at is null returning id;
end
"""


FUNCTIONS = (
    "record_change",
    "user_name",
    "tenant_name",
    "record_truncation",
    "mint_token",
    "revoke_tokens",
    *(f"record_{table}" for table in RECORDERS),
)


def upgrade() -> None:
    # The functions run as the owner, to whom row level security applies as to anybody. In `tenants`
    # it has its policy already.
    _run("create policy owner_insert on audit_events for insert to current_user with check (true)")
    for statement in (RECORD_CHANGE, NAMES, RECORD_TRUNCATION, TOKENS):
        _run(statement)
    for table, body in RECORDERS.items():
        _run(RECORDER.format(table=table, body=body, columns=COLUMNS.get(table, "")))
    _run(f"revoke execute on function {', '.join(FUNCTIONS)} from public")
    _run("revoke insert, update on api_tokens from sightline_directory")
    _run("grant execute on function mint_token, revoke_tokens to sightline_directory")


def _run(statement: str) -> None:
    """Run a statement as it is: its colons and percent signs stand for themselves."""
    op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
