"""Bind services' tokens: to surfaces, to tenants, to break-glass, and to reporting second factors.

A token that is bound to nothing asks nothing. Only `bind_token` changes what a token is bound to,
and the trigger records it. Give the tokens of your services what they need: `flask tokens bind`.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

BINDINGS_OF = """
create function bindings_of(token public.api_tokens) returns text language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce((select string_agg(' --surface ' || pattern, '')
      from unnest(token.surfaces) pattern), '')
    || case when token.tenant_ids is null then ' --all-tenants'
      else coalesce((select string_agg(' --tenant ' || public.tenant_name(id), '')
        from unnest(token.tenant_ids) id), '') end
    || case when token.break_glass then ' --break-glass' else '' end
    || case when token.reports_mfa then ' --reports-mfa' else '' end
$$
"""

RECORD_API_TOKENS = """
create or replace function record_api_tokens() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'INSERT' then
    perform public.record_change('tokens.create', 'tokens create ' || new.id || ' for '
      || public.user_name(new.principal_id) || public.bindings_of(new));
  elsif tg_op = 'DELETE' then
    perform public.record_change('tokens.delete',
      'tokens delete ' || old.id || ' of ' || public.user_name(old.principal_id));
  else
    if old.revoked_at is null and new.revoked_at is not null then
      perform public.record_change('tokens.revoke', 'tokens revoke ' || new.id);
    elsif old.revoked_at is distinct from new.revoked_at then
      perform public.record_change('tokens.change', 'tokens change the end of ' || new.id);
    end if;
    if (old.surfaces, old.tenant_ids, old.break_glass, old.reports_mfa)
      is distinct from (new.surfaces, new.tenant_ids, new.break_glass, new.reports_mfa)
    then
      perform public.record_change('tokens.bind',
        'tokens bind ' || new.id || public.bindings_of(new));
    end if;
    if (old.id, old.principal_id, old.name, old.token_hash, old.created_at, old.expires_at, old.mfa)
      is distinct from
      (new.id, new.principal_id, new.name, new.token_hash, new.created_at, new.expires_at, new.mfa)
    then
      perform public.record_change('tokens.change',
        'tokens change ' || new.id || ' of ' || public.user_name(new.principal_id));
    end if;
  end if;
  return null;
end $$
"""

RECORDED = """
drop trigger recorded on api_tokens;
create constraint trigger recorded after insert or delete or update of
  id, principal_id, name, token_hash, created_at, expires_at, revoked_at, mfa,
  surfaces, tenant_ids, break_glass, reports_mfa
  on api_tokens deferrable initially deferred for each row execute function record_api_tokens()
"""
"""All columns but the time of the last use."""

BIND = """
create function bind_token(
  token_id uuid, surfaces text[], tenant_ids uuid[], break_glass boolean, reports_mfa boolean
) returns uuid
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  bound uuid;
begin
  if cardinality(surfaces) > 20 or exists (
    select from unnest(surfaces) pattern
    where pattern is null or length(pattern) > 200
      or pattern !~ '^(\\*|[a-z0-9_]+(\\.[a-z0-9_]+)*(\\.\\*)?)$'
  ) then
    raise exception 'a token is bound to 20 patterns of surfaces at most'
      using errcode = 'check_violation';
  end if;
  if cardinality(tenant_ids) > 100 or exists (
    select from unnest(tenant_ids) bound_to(id)
    where not exists (select from public.tenants t where t.id = bound_to.id)
  ) then
    raise exception 'a token is bound to 100 tenants at most, which exist'
      using errcode = 'check_violation';
  end if;
  update public.api_tokens t
    set surfaces = bind_token.surfaces, tenant_ids = bind_token.tenant_ids,
      break_glass = bind_token.break_glass, reports_mfa = bind_token.reports_mfa
    where t.id = bind_token.token_id and t.revoked_at is null returning t.id into bound;
  return bound;
end $$
"""


def upgrade() -> None:
    nothing = sa.text("'{}'")
    columns: list[sa.Column[Any]] = [
        sa.Column("surfaces", postgresql.ARRAY(sa.Text()), nullable=False, server_default=nothing),
        sa.Column("tenant_ids", postgresql.ARRAY(sa.Uuid()), nullable=True, server_default=nothing),
        sa.Column("break_glass", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("reports_mfa", sa.Boolean(), nullable=False, server_default=sa.false()),
    ]
    for column in columns:
        op.add_column("api_tokens", column)
    for statement in (BINDINGS_OF, RECORD_API_TOKENS, RECORDED, BIND):
        _run(statement)
    _run("revoke execute on function bindings_of, bind_token from public")
    _run("grant execute on function bind_token to sightline_directory")


def _run(statement: str) -> None:
    """Run a statement as it is: its colons and percent signs stand for themselves."""
    op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
