"""Record what is done to a tenant's people in that tenant's scope, and notify its admins.

Whoever holds a platform role is no member of a tenant: triggers refuse both directions. Events name
the operator whose command made the change.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from webapp.db.tenant_tables import secure_tenant_table

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# The bytes are those of webapp/audit/event.py, as in migration 0018.
RECORD_CHANGE = """
create function record_change(surface text, words text, concerned uuid default null) returns uuid
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
  named constant text := case when by_command
    then nullif(current_setting('sightline.operator', true), '') else session_user end;
  actor constant text := 'operator' || coalesce(':' || named, '');
  host constant text := case when by_command
    then nullif(current_setting('sightline.operator_host', true), '') end;
  agent constant text := coalesce(host || ' as ', '') || session_user;
  kind constant text := case when concerned is null then 'global' else 'tenant' end;
  slug constant text := public.tenant_name(concerned);
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
  event := '{"actor":{"email":' || to_json(actor) || ',"id":"' || nobody
    || '","mfa":false,"roles":[],"token_id":null},"decision":{"effect":"allowed","excluded":null,'
    || '"grant_ids":[],"policy_version":null,"rule_ids":[]},"http_status":null,"id":"' || made
    || '","kind":"change","occurred_at":"' || to_char(moment, 'YYYY-MM-DD"T"HH24:MI:SS')
    || case when us / 1000 % 1000 = 0 then '' else to_char(moment, '.US') end
    || 'Z","origin":{"journal":"' || own || '","seq":' || number
    || '},"outcome":"served","reason":null,"repeats":1,"request":{"id":"' || request
    || '","ip":null,"method":"' || method || '","path":' || to_json(path)
    || ',"user_agent":' || to_json(agent)
    || ',"x_request_id":null},"rows":1,"scope":{"kind":"' || kind || '","tenant":'
    || coalesce(to_json(slug)::text, 'null') || ',"tenant_id":'
    || coalesce(to_json(concerned)::text, 'null') || '},"surface":' || to_json(surface)
    || ',"terms":null,"via":null}';
  insert into public.audit_events (id, tenant_id, tenant, occurred_at, kind, actor_id, actor_email,
      surface, scope_kind, effect, outcome, request_id, origin_journal, origin_seq,
      excluded_tenant_ids, event)
    values (made, concerned, slug, moment, 'change', nobody, actor, surface, kind, 'allowed',
      'served', request, own, number, '{}', event::json);
  if not by_command then
    -- No process of the application tells the caches.
    perform public.raise_generations(array['identity']);
  end if;
  return made;
end $$
"""

# Which tenants an event concerns. A person's tenants are those from before the change, too: whoever
# leaves in the same transaction is still of concern to the tenant that is left.
CONCERNED = """
create function note_tenants_of(person uuid) returns void language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  perform set_config('sightline.of_' || replace(person::text, '-', ''),
    array_to_string(public.tenants_of(person), ','), true);
end $$;

create function tenants_of(person uuid) returns uuid[] language sql volatile
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(id order by id), '{}') from (
    select tenant_id id from public.memberships where principal_id = person
    union
    select unnest(string_to_array(nullif(
      current_setting('sightline.of_' || replace(person::text, '-', ''), true), ''), ',')::uuid[])
  ) concerned
$$;

create function record_change_of(
  person uuid, surface text, words text, beside uuid[] default '{}'
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  tenants constant uuid[] := public.tenants_of(person) || coalesce(beside, '{}');
  concerned uuid;
begin
  -- Without a tenant: once, with none.
  for concerned in
    select distinct each from unnest(tenants) each
    union all
    select null::uuid where cardinality(tenants) = 0
  loop
    perform public.record_change(surface, words, concerned);
  end loop;
end $$
"""

NOTING = """
create function note_tenants_{table}() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op <> 'INSERT' then
    perform public.note_tenants_of(old.{key});
  end if;
  if tg_op <> 'DELETE' then
    perform public.note_tenants_of(new.{key});
  end if;
  return null;
end $$;

create trigger noted after insert or delete or update{columns} on {table}
  for each row execute function note_tenants_{table}()
"""

APART = """
create function refuse_double_role() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- An update, and no mere lock: of two transactions at once one sees the other or fails, whatever
  -- their isolation level is.
  update public.principals set email = email where id = new.principal_id;
  if tg_table_name = 'memberships' then
    if exists (select from public.platform_roles where principal_id = new.principal_id) then
      raise exception 'who holds a platform role cannot be a member of a tenant'
        using errcode = 'check_violation', constraint = 'one_side';
    end if;
  elsif exists (select from public.memberships where principal_id = new.principal_id) then
    raise exception 'a member of a tenant cannot hold a platform role'
      using errcode = 'check_violation', constraint = 'one_side';
  end if;
  return new;
end $$;

create trigger one_side before insert or update on memberships
  for each row execute function refuse_double_role();

create trigger one_side before insert or update on platform_roles
  for each row execute function refuse_double_role()
"""

NOTIFY = """
create function notify_of_member(
  kind text, of_tenant uuid, person uuid, role text, former text, event uuid
) returns void language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from public.tenants where id = of_tenant and ended_at is not null) then
    return;  -- nobody administers it any more
  end if;
  insert into public.notices (id, event, tenants, people, body, created_at, due_at, attempts)
    select gen_random_uuid(), kind, array[of_tenant],
      case when former = 'admin' then array[person] else '{}' end,
      jsonb_build_object('type', 'member.' || kind,
        'timestamp', to_char(now at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        'data', jsonb_build_object('tenant', public.tenant_name(of_tenant),
          'member', public.user_name(person), 'role', role, 'former_role', former, 'event', event)),
      now, now, 0
    from clock_timestamp() now;
end $$
"""

RECORDERS = {
    "tenants": """
  if tg_op = 'INSERT' then
    perform public.record_change('tenants.create', 'tenants create ' || new.slug, new.id);
  elsif tg_op = 'DELETE' then
    perform public.record_change('tenants.delete', 'tenants delete ' || old.slug);
  else
    if (old.slug, old.name) is distinct from (new.slug, new.name) then
      perform public.record_change('tenants.rename', 'tenants rename ' || old.slug
        || case when old.slug <> new.slug then ' --slug ' || new.slug else '' end
        || case when old.name <> new.name then ' --name ' || new.name else '' end, new.id);
    end if;
    if old.ended_at is distinct from new.ended_at then
      if old.ended_at is null then
        perform public.record_change('tenants.end', 'tenants end ' || new.slug, new.id);
      else
        perform public.record_change('tenants.change', 'tenants change the end of ' || new.slug,
          new.id);
      end if;
    end if;
    if (old.id, old.created_at) is distinct from (new.id, new.created_at) then
      perform public.record_change('tenants.change', 'tenants change ' || new.slug, new.id);
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
      perform public.record_change_of(new.id, 'users.rename',
        'users rename ' || old.email || ' ' || new.email);
    end if;
    if old.ended_at is distinct from new.ended_at then
      if old.ended_at is null then
        perform public.record_change_of(new.id, 'users.end', 'users end ' || new.email);
      else
        perform public.record_change_of(new.id, 'users.change',
          'users change the end of ' || new.email);
      end if;
    end if;
    if (old.id, old.created_at) is distinct from (new.id, new.created_at) then
      perform public.record_change_of(new.id, 'users.change', 'users change ' || new.email);
    end if;
  end if;
""",
    "memberships": """
  if tg_op = 'DELETE' or tg_op = 'UPDATE'
    and (old.tenant_id, old.principal_id) <> (new.tenant_id, new.principal_id)
  then
    perform public.notify_of_member('left', old.tenant_id, old.principal_id, null, old.role,
      public.record_change('users.leave', 'users leave '
        || public.user_name(old.principal_id) || ' ' || public.tenant_name(old.tenant_id),
        old.tenant_id));
  end if;
  if tg_op = 'INSERT' or tg_op = 'UPDATE' and old is distinct from new then
    -- In an insert there is no old row to look at.
    stays := tg_op = 'UPDATE'
      and (old.tenant_id, old.principal_id) = (new.tenant_id, new.principal_id);
    perform public.notify_of_member(
      case when stays then 'changed' else 'joined' end,
      new.tenant_id, new.principal_id, new.role, case when stays then old.role end,
      public.record_change('users.join', 'users join '
        || public.user_name(new.principal_id) || ' ' || public.tenant_name(new.tenant_id)
        || ' ' || new.role, new.tenant_id));
  end if;
""",
    "api_tokens": """
  if tg_op = 'INSERT' then
    perform public.record_change_of(new.principal_id, 'tokens.create',
      'tokens create ' || new.id || ' for ' || public.user_name(new.principal_id)
      || public.bindings_of(new), new.tenant_ids);
  elsif tg_op = 'DELETE' then
    perform public.record_change_of(old.principal_id, 'tokens.delete',
      'tokens delete ' || old.id || ' of ' || public.user_name(old.principal_id), old.tenant_ids);
  else
    if old.revoked_at is null and new.revoked_at is not null then
      perform public.record_change_of(new.principal_id, 'tokens.revoke',
        'tokens revoke ' || new.id, new.tenant_ids);
    elsif old.revoked_at is distinct from new.revoked_at then
      perform public.record_change_of(new.principal_id, 'tokens.change',
        'tokens change the end of ' || new.id, new.tenant_ids);
    end if;
    if (old.surfaces, old.tenant_ids, old.break_glass, old.reports_mfa)
      is distinct from (new.surfaces, new.tenant_ids, new.break_glass, new.reports_mfa)
    then
      perform public.record_change_of(new.principal_id, 'tokens.bind',
        'tokens bind ' || new.id || public.bindings_of(new), old.tenant_ids || new.tenant_ids);
    end if;
    if (old.id, old.principal_id, old.name, old.token_hash, old.created_at, old.expires_at, old.mfa)
      is distinct from
      (new.id, new.principal_id, new.name, new.token_hash, new.created_at, new.expires_at, new.mfa)
    then
      perform public.record_change_of(new.principal_id, 'tokens.change',
        'tokens change ' || new.id || ' of ' || public.user_name(new.principal_id),
        old.tenant_ids || new.tenant_ids);
    end if;
  end if;
""",
}
"""What each table's trigger says, in the words of the commands, and which tenants it concerns."""

RECORDER = """
create or replace function record_{table}() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  stays boolean;
begin
  {body}
  return null;
end $$
"""

FUNCTIONS = (
    "record_change",
    "note_tenants_of",
    "tenants_of",
    "record_change_of",
    "note_tenants_principals",
    "note_tenants_api_tokens",
    "refuse_double_role",
    "notify_of_member",
)


def upgrade() -> None:
    secure_tenant_table("memberships")
    op.alter_column("notices", "grant_id", nullable=True)
    op.alter_column("notices", "channel", nullable=True)
    people = postgresql.ARRAY(sa.Uuid())
    op.add_column("notices", sa.Column("people", people, server_default="{}", nullable=False))
    _run("drop function record_change(text, text)")
    for statement in (RECORD_CHANGE, CONCERNED, NOTIFY):
        _run(statement)
    for table, body in RECORDERS.items():
        _run(RECORDER.format(table=table, body=body))
    for table, key, columns in (
        ("principals", "id", " of id, email, ended_at, created_at"),
        ("api_tokens", "principal_id", " of id, principal_id, name, token_hash, created_at,"
         " expires_at, revoked_at, mfa"),
    ):  # fmt: skip
        _run(NOTING.format(table=table, key=key, columns=columns))
    _run(APART)
    _run(f"revoke execute on function {', '.join(FUNCTIONS)} from public")


def _run(statement: str) -> None:
    """Run a statement as it is: its colons and percent signs stand for themselves."""
    op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
