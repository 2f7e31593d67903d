"""Tell the tenants of both people of a token that is given to somebody else.

Only SQL does that. The event named the new person alone, and only that person's tenants had it.
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

# As in migration 0022, but for the last event.
RECORD_API_TOKENS = """
create or replace function record_api_tokens() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
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
        'tokens change ' || new.id || ' of ' || public.user_name(old.principal_id)
        || case when old.principal_id <> new.principal_id
          then ' to ' || public.user_name(new.principal_id) else '' end,
        old.tenant_ids || new.tenant_ids || public.tenants_of(old.principal_id));
    end if;
  end if;
  return null;
end $$
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(RECORD_API_TOKENS, execution_options={"no_parameters": True})
