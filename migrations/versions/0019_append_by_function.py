"""Append events by a function that takes their columns from the events themselves.

No role of the application may insert into the ledger otherwise. So a row cannot say anything that
its event does not say, and a set of excluded tenants cannot have the name of another set.
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

APPEND_EVENTS = """
create function append_events(events json) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  appended bigint;
begin
  insert into public.audit_events (id, tenant_id, tenant, occurred_at, kind, actor_id, actor_email,
      surface, reason_code, ticket, scope_kind, effect, outcome, request_id, origin_journal,
      origin_seq, excluded_digest, excluded_tenant_ids, event)
    select own.id, scope.tenant_id, scope.tenant, own.occurred_at, own.kind, actor.id, actor.email,
      own.surface, own.reason ->> 'code', own.reason ->> 'ticket', scope.kind, decision.effect,
      own.outcome, request.id, origin.journal, origin.seq, decision.excluded ->> 'digest',
      coalesce(decision.excluded_tenant_ids, '{}'), each.event
    from json_array_elements(events) each(event),
      json_to_record(each.event) own(id uuid, occurred_at timestamptz, kind text, surface text,
        outcome text, actor json, decision json, origin json, reason json, request json,
        scope json),
      json_to_record(own.actor) actor(id uuid, email text),
      json_to_record(own.decision) decision(effect text, excluded json, excluded_tenant_ids uuid[]),
      json_to_record(own.origin) origin(journal uuid, seq bigint),
      json_to_record(own.request) request(id text),
      json_to_record(own.scope) scope(kind text, tenant text, tenant_id uuid)
    on conflict do nothing;
  get diagnostics appended = row_count;
  return appended;
end $$
"""


EXCLUDED_DIGEST = """
create function excluded_digest(tenant_ids uuid[]) returns text
language sql immutable strict parallel safe as $$
  select encode(sha256(convert_to(array_to_string(tenant_ids, ','), 'UTF8')), 'hex')
$$
"""


def upgrade() -> None:
    op.execute(EXCLUDED_DIGEST)
    op.create_check_constraint(
        op.f("ck_excluded_sets_digest"), "excluded_sets", "digest = excluded_digest(tenant_ids)"
    )
    op.get_bind().exec_driver_sql(APPEND_EVENTS, execution_options={"no_parameters": True})
    op.execute("revoke execute on function append_events from public")
    op.execute("grant execute on function append_events to sightline_ledger")
    op.execute("drop policy appended on audit_events")
    op.execute("revoke insert on audit_events from sightline_ledger")
