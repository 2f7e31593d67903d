"""Let the web change identity only with the credential of somebody who may.

`sightline_administration` changes members, tenants and tokens. Its policies and functions ask for a
proof that the transaction has the digest of a credential that is good, and no role of the web reads
the digests that are stored. A token may be made in a tenant, and then carries the membership there
and nothing else.
"""

import sqlalchemy as sa
from alembic import op

from webapp.db.tenant_tables import secure_tenant_table

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

READ = (
    "id, principal_id, tenant_id, name, created_at, expires_at, revoked_at, last_used_at, mfa,"
    " surfaces, tenant_ids, break_glass, reports_mfa"
)
"""What may be read of a token: all but its digest."""
READERS = "sightline_identity, sightline_directory, sightline_administration"

PROVE = """
create function proven() returns uuid language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select id from public.api_tokens
    where id = nullif(current_setting('sightline.token', true), '')::uuid
      -- Who watches the statements of others learns nothing that is good in another transaction.
      and sha256(token_hash || convert_to(pg_current_xact_id()::text, 'UTF8'))
        = decode(nullif(current_setting('sightline.proof', true), ''), 'hex')
$$;

create function administers(of_tenant uuid) returns boolean language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.api_tokens t
      join public.principals p on p.id = t.principal_id
    where t.id = public.proven() and t.revoked_at is null and p.ended_at is null
      and (t.expires_at is null or t.expires_at > clock_timestamp())
      and (
        t.tenant_id is null and exists (
          select from public.platform_roles r where r.principal_id = p.id and r.role = 'owner')
        or (t.tenant_id is null or t.tenant_id = of_tenant) and exists (
          select from public.memberships m
          where m.principal_id = p.id and m.tenant_id = of_tenant and m.role = 'admin')))
$$;

create function administers_scope() returns boolean language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select public.administers(nullif(current_setting('sightline.tenant_id', true), '')::uuid)
$$;

create function administers_platform() returns boolean language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select public.administers(null)
$$;

create function token_with(digest_of_digest bytea) returns uuid
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select id from public.api_tokens where sha256(token_hash) = digest_of_digest
$$
"""

# As in migration 0018, but for the tenant.
MINT = """
create function add_token(
  token_id uuid, owner uuid, name text, token_hash bytea, expires_at timestamptz, mfa boolean,
  in_tenant uuid
) returns void
language plpgsql
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
  insert into public.api_tokens (id, principal_id, name, token_hash, expires_at, mfa, tenant_id)
    values (token_id, owner, name, token_hash, expires_at, mfa, in_tenant);
end $$;

create or replace function mint_token(
  token_id uuid, owner uuid, name text, token_hash bytea, expires_at timestamptz, mfa boolean
) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform public.add_token(token_id, owner, name, token_hash, expires_at, mfa, null);
end $$
"""

IN_SCOPE = """
create function refuse_unproven() returns uuid language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not public.administers_scope() then
    raise exception 'permission denied: no credential of somebody who administers this scope'
      using errcode = 'insufficient_privilege';
  end if;
  return nullif(current_setting('sightline.tenant_id', true), '')::uuid;
end $$;

create function add_user_in_scope(user_id uuid, address text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform public.refuse_unproven();
  if length(address) not between 3 and 320 or address <> lower(address) then
    raise exception 'an address has 3 to 320 characters, in lower case'
      using errcode = 'check_violation';
  end if;
  insert into public.principals (id, email) values (user_id, address);
end $$;

create function end_members_in_scope(users uuid[]) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  scope constant uuid := public.refuse_unproven();
  ended bigint;
begin
  -- Without users: all of them, with the tenant.
  if users is null and not public.administers_platform() then
    raise exception 'only an owner ends all memberships' using errcode = 'insufficient_privilege';
  end if;
  delete from public.memberships m
    where m.tenant_id = scope and (users is null or m.principal_id = any (users));
  get diagnostics ended = row_count;
  return ended;
end $$;

create function mint_token_in_scope(
  token_id uuid, owner uuid, name text, token_hash bytea, expires_at timestamptz
) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  scope constant uuid := public.refuse_unproven();
begin
  if scope is null then
    if not exists (
      select from public.platform_roles r where r.principal_id = owner and r.role = 'service')
    then
      raise exception 'in no tenant only services get tokens this way'
        using errcode = 'insufficient_privilege';
    end if;
  elsif not exists (
    select from public.memberships m where m.principal_id = owner and m.tenant_id = scope)
  then
    raise exception 'only members get tokens in a tenant' using errcode = 'insufficient_privilege';
  elsif not exists (
    select from public.memberships m join public.api_tokens t on t.principal_id = m.principal_id
    where t.id = public.proven() and m.tenant_id = scope and m.role = 'admin')
  then
    raise exception 'only a tenant''s own admins make tokens for its people'
      using errcode = 'insufficient_privilege';
  end if;
  if expires_at is null or expires_at > clock_timestamp() + interval '367 days' then
    raise exception 'a token that is made this way ends within a year'
      using errcode = 'check_violation';
  end if;
  perform public.add_token(token_id, owner, name, token_hash, expires_at, false, scope);
end $$;

create function bind_token_in_scope(
  token_id uuid, surfaces text[], tenant_ids uuid[], break_glass boolean, reports_mfa boolean
) returns uuid
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if public.refuse_unproven() is not null or not exists (
    select from public.api_tokens t join public.platform_roles r on r.principal_id = t.principal_id
    where t.id = token_id and t.tenant_id is null and r.role = 'service')
  then
    raise exception 'only tokens of services are bound, and in no tenant'
      using errcode = 'insufficient_privilege';
  end if;
  return public.bind_token(token_id, surfaces, tenant_ids, break_glass, reports_mfa);
end $$;

create function revoke_token_in_scope(token_id uuid) returns uuid
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  scope constant uuid := public.refuse_unproven();
  ended uuid;
begin
  update public.api_tokens t set revoked_at = clock_timestamp()
    where t.id = token_id and t.revoked_at is null and t.tenant_id is not distinct from scope
    returning t.id into ended;
  return ended;
end $$
"""

END_TOKENS = """
create function end_tokens_of_member() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.api_tokens set revoked_at = clock_timestamp()
    where principal_id = old.principal_id and tenant_id = old.tenant_id and revoked_at is null;
  return null;
end $$;

create trigger tokens_end after delete or update of tenant_id, principal_id on memberships
  for each row execute function end_tokens_of_member()
"""

# As in migration 0022, and whoever has ended gets no role, whatever else happens at the moment.
APART = """
create or replace function refuse_double_role() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  has_ended boolean;
begin
  -- An update, and no mere lock: of two transactions at once one sees the other or fails, whatever
  -- their isolation level is.
  update public.principals set email = email where id = new.principal_id
    returning ended_at is not null into has_ended;
  if has_ended then
    raise exception 'who has ended gets no role'
      using errcode = 'check_violation', constraint = 'has_ended';
  end if;
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
end $$
"""

# As in migration 0024. What happens to a token that was made in a tenant concerns that tenant only.
RECORD_TOKENS = """
create function record_change_of_token(
  token public.api_tokens, surface text, words text, beside uuid[]
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if token.tenant_id is null then
    perform public.record_change_of(token.principal_id, surface, words, beside);
  else
    perform public.record_change(surface, words, token.tenant_id);
  end if;
end $$;

create or replace function record_api_tokens() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'INSERT' then
    perform public.record_change_of_token(new, 'tokens.create',
      'tokens create ' || new.id || ' for ' || public.user_name(new.principal_id)
      || coalesce(' in ' || public.tenant_name(new.tenant_id), '') || public.bindings_of(new),
      new.tenant_ids);
  elsif tg_op = 'DELETE' then
    perform public.record_change_of_token(old, 'tokens.delete',
      'tokens delete ' || old.id || ' of ' || public.user_name(old.principal_id), old.tenant_ids);
  else
    if old.revoked_at is null and new.revoked_at is not null then
      perform public.record_change_of_token(new, 'tokens.revoke',
        'tokens revoke ' || new.id, new.tenant_ids);
    elsif old.revoked_at is distinct from new.revoked_at then
      perform public.record_change_of_token(new, 'tokens.change',
        'tokens change the end of ' || new.id, new.tenant_ids);
    end if;
    if (old.surfaces, old.tenant_ids, old.break_glass, old.reports_mfa)
      is distinct from (new.surfaces, new.tenant_ids, new.break_glass, new.reports_mfa)
    then
      perform public.record_change_of_token(new, 'tokens.bind',
        'tokens bind ' || new.id || public.bindings_of(new), old.tenant_ids || new.tenant_ids);
    end if;
    if (old.id, old.principal_id, old.tenant_id, old.name, old.token_hash, old.created_at,
        old.expires_at, old.mfa)
      is distinct from
      (new.id, new.principal_id, new.tenant_id, new.name, new.token_hash, new.created_at,
        new.expires_at, new.mfa)
    then
      perform public.record_change_of(new.principal_id, 'tokens.change',
        'tokens change ' || new.id || ' of ' || public.user_name(old.principal_id)
        || case when old.principal_id <> new.principal_id
          then ' to ' || public.user_name(new.principal_id) else '' end,
        old.tenant_ids || new.tenant_ids || public.tenants_of(old.principal_id));
    end if;
  end if;
  return null;
end $$;

drop trigger recorded on api_tokens;

create constraint trigger recorded after insert or delete or update of
  id, principal_id, tenant_id, name, token_hash, created_at, expires_at, revoked_at, mfa,
  surfaces, tenant_ids, break_glass, reports_mfa
  on api_tokens deferrable initially deferred for each row execute function record_api_tokens()
"""

# As in migrations 0023, 0025 and 0028. Who has proven a credential is the actor, and the change is
# one of that request.
RECORD_CHANGE = """
create function proven_actor() returns json language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select json_build_object('id', p.id, 'email', p.email, 'mfa', t.mfa, 'token_id', t.id,
    'roles', array(
      select role from public.platform_roles where principal_id = p.id and t.tenant_id is null
        order by role collate "C") || array(
      select n.slug || ':' || m.role from public.memberships m
        join public.tenants n on n.id = m.tenant_id
        where m.principal_id = p.id and (t.tenant_id is null or t.tenant_id = m.tenant_id)
        order by n.slug collate "C"))
  from public.api_tokens t join public.principals p on p.id = t.principal_id
  where t.id = public.proven()
$$;

create or replace function record_change(surface text, words text, concerned uuid default null)
returns uuid
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  own constant uuid := '5167711e-0000-4000-8000-000000000001';
  nobody constant uuid := '00000000-0000-0000-0000-000000000000';
  -- Whoever connects may call themselves so; the login says who it was.
  by_application constant boolean := current_setting('application_name') = 'sightline';
  person constant json := public.proven_actor();
  method constant text := case when person is not null then 'HTTP'
    when by_application then 'CLI' else 'SQL' end;
  path constant text := case when method = 'CLI' then 'flask ' || words else words end;
  named constant text := case when by_application
    then nullif(current_setting('sightline.operator', true), '') else session_user end;
  actor constant text := coalesce(person->>'email', 'operator' || coalesce(':' || named, ''));
  actor_id constant uuid := coalesce((person->>'id')::uuid, nobody);
  host constant text := case when by_application
    then nullif(current_setting('sightline.operator_host', true), '') end;
  agent constant text := coalesce(host || ' as ', '') || session_user;
  kind constant text := case when concerned is null then 'global' else 'tenant' end;
  slug constant text := public.tenant_name(concerned);
  -- The same in all events of a transaction.
  request constant text := coalesce(
    case when person is not null then nullif(current_setting('sightline.request_id', true), '') end,
    md5(pg_current_xact_id()::text || ' ' || transaction_timestamp()::text));
  us bigint;
  made uuid;
  moment timestamptz;
  number bigint;
  event text;
begin
  perform from public.turns where act = 'append' for update;
  us := extract(epoch from clock_timestamp()) * 1000000;
  -- RFC 9562, method 3: the microseconds keep the events of a transaction in order.
  made := lpad(to_hex(us / 1000), 12, '0') || '7' || lpad(to_hex(us % 1000 * 4096 / 1000), 3, '0')
    || substr(translate(gen_random_uuid()::text, '-', ''), 17);
  moment := public.event_moment(made);
  perform public.ensure_audit_partition(moment::date);
  select coalesce(max(seq), 0) + 1 into number from public.audit_numbers where journal = own;
  event := '{"actor":{"email":' || to_json(actor) || ',"id":"' || actor_id || '","mfa":'
    || coalesce(person->>'mfa', 'false') || ',"roles":' || coalesce((person->'roles')::text, '[]')
    || ',"token_id":' || coalesce((person->'token_id')::text, 'null')
    || '},"decision":{"effect":"allowed","excluded":null,'
    || '"grant_ids":[],"policy_version":null,"rule_ids":[]},"http_status":null,"id":"' || made
    || '","kind":"change","occurred_at":"' || to_char(moment, 'YYYY-MM-DD"T"HH24:MI:SS')
    || case when us / 1000 % 1000 = 0 then '' else to_char(moment, '.US') end
    || 'Z","origin":{"journal":"' || own || '","seq":' || number
    || '},"outcome":"served","reason":null,"repeats":1,"request":{"id":' || to_json(request)
    || ',"ip":null,"method":"' || method || '","path":' || to_json(path)
    || ',"user_agent":' || to_json(agent)
    || ',"x_request_id":null},"rows":1,"salt":"' || public.new_salt()
    || '","scope":{"kind":"' || kind || '","tenant":'
    || coalesce(to_json(slug)::text, 'null') || ',"tenant_id":'
    || coalesce(to_json(concerned)::text, 'null') || '},"surface":' || to_json(surface)
    || ',"terms":null,"via":null}';
  insert into public.audit_events (id, tenant_id, tenant, occurred_at, kind, actor_id, actor_email,
      surface, scope_kind, effect, outcome, request_id, origin_journal, origin_seq,
      event)
    values (made, concerned, slug, moment, 'change', actor_id, actor, surface, kind, 'allowed',
      'served', request, own, number, event::json);
  if not by_application then
    -- No process of the application tells the caches.
    perform public.raise_generations(array['identity']);
  end if;
  return made;
end $$
"""

FUNCTIONS = (
    "proven",
    "administers",
    "administers_scope",
    "administers_platform",
    "token_with",
    "add_token",
    "refuse_unproven",
    "add_user_in_scope",
    "end_members_in_scope",
    "mint_token_in_scope",
    "bind_token_in_scope",
    "revoke_token_in_scope",
    "end_tokens_of_member",
    "record_change_of_token",
    "proven_actor",
)
OF_ADMINISTRATION = (
    "administers_scope",
    "administers_platform",
    "add_user_in_scope",
    "end_members_in_scope",
    "mint_token_in_scope",
    "bind_token_in_scope",
    "revoke_token_in_scope",
)


def upgrade() -> None:
    op.add_column("api_tokens", sa.Column("tenant_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("fk_api_tokens_tenant_id_tenants"), "api_tokens", "tenants", ["tenant_id"], ["id"]
    )
    op.create_index(
        op.f("ix_api_tokens_tenant_id_created_at_id"),
        "api_tokens",
        ["tenant_id", "created_at", "id"],
    )
    _run("create unique index uq_api_tokens_sha256 on api_tokens (sha256(token_hash))")
    for statements in (PROVE, MINT, IN_SCOPE, END_TOKENS, APART, RECORD_TOKENS, RECORD_CHANGE):
        _run(statements)
    _run(f"revoke execute on function {', '.join(FUNCTIONS)} from public")
    _run(f"grant execute on function {', '.join(OF_ADMINISTRATION)} to sightline_administration")
    _run("grant execute on function token_with to sightline_identity")
    _run("grant select on principals, platform_roles to sightline_administration")
    _close_tables()


def _close_tables() -> None:
    for table in ("tenants", "memberships", "api_tokens"):
        secure_tenant_table(table)
    # Who may update or delete whole rows may lock the table against everybody, whatever they prove.
    _run("revoke update on tenants, memberships from sightline_administration")
    _run("grant update (slug, name, ended_at) on tenants to sightline_administration")
    _run("grant update (role) on memberships to sightline_administration")
    _run(f"revoke select on api_tokens from {READERS}")  # noqa: S608 - constants
    _run(f"grant select ({READ}) on api_tokens to {READERS}")
    _run("revoke select, update on api_tokens from sightline_maintenance")
    _run(
        "grant select (id, last_used_at), update (last_used_at) on api_tokens"
        " to sightline_maintenance"
    )


def _run(statement: str) -> None:
    """Run a statement as it is: its colons and percent signs stand for themselves."""
    op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
