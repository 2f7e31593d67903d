"""Drop the column in which events had the tenants that they leave out, before sets were kept once.

Nothing writes it any more.
"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

OWN = "(select nullif(current_setting('sightline.tenant_id', true), '')::uuid)"

# As in migration 0022, without the column.
RECORD_CHANGE = """
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
      event)
    values (made, concerned, slug, moment, 'change', nobody, actor, surface, kind, 'allowed',
      'served', request, own, number, event::json);
  if not by_command then
    -- No process of the application tells the caches.
    perform public.raise_generations(array['identity']);
  end if;
  return made;
end $$
"""

EVENTS_OF_TENANT = f"""
alter policy own on audit_events using (
  tenant_id = {OWN}
  or ({OWN} is not null
    and scope_kind = 'global' and kind = 'access' and effect = 'allowed'
    and (excluded_digest is null
      or not (excluded_digest in (select digest from excluded_sets))))
)
"""  # noqa: S608 - constants


def upgrade() -> None:
    op.get_bind().exec_driver_sql(RECORD_CHANGE, execution_options={"no_parameters": True})
    op.execute(EVENTS_OF_TENANT)
    op.drop_column("audit_events", "excluded_tenant_ids")
