"""Store the words of the vocabulary: access, break-glass, bypassed approvals, maintenance.

The names of roles belong to the whole server, and `flask db upgrade` makes them before any
migration runs. So the earlier migrations name `sightline_maintenance` too, and this one moves what
a database of an earlier development version has given to the role of the former name.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Policies keep what they say: only the setting, the kind and the role get their new names.
RENAME_IN_POLICIES = """
do $$
declare
  found record;
  statement text;
begin
  for found in
    select tablename, policyname, qual, with_check, roles from pg_policies
    where schemaname = 'public'
      and (qual like '%sightline.look%' or qual like '%''look''%'
        or with_check like '%sightline.look%' or 'sightline_clerk' = any (roles))
  loop
    statement := format('alter policy %I on public.%I', found.policyname, found.tablename);
    if 'sightline_clerk' = any (found.roles) then
      statement := statement || ' to sightline_maintenance';
    end if;
    if found.qual is not null then
      statement := statement || ' using (' || replace(replace(found.qual,
        'sightline.look', 'sightline.access'), '''look''', '''access''') || ')';
    end if;
    if found.with_check is not null then
      statement := statement || ' with check (' || replace(found.with_check,
        'sightline.look', 'sightline.access') || ')';
    end if;
    execute statement;
    if found.policyname = 'looked_at' then
      execute format('alter policy looked_at on public.%I rename to accessed', found.tablename);
    end if;
  end loop;
end $$
"""

MOVE_PRIVILEGES = """
do $$
declare
  found record;
begin
  if not exists (select from pg_roles where rolname = 'sightline_clerk') then return; end if;
  for found in
    select table_name, privilege_type from information_schema.role_table_grants
    where table_schema = 'public' and grantee = 'sightline_clerk'
  loop
    execute format('grant %s on public.%I to sightline_maintenance',
      found.privilege_type, found.table_name);
    execute format('revoke %s on public.%I from sightline_clerk',
      found.privilege_type, found.table_name);
  end loop;
  for found in
    select table_name, column_name, privilege_type from information_schema.role_column_grants
    where table_schema = 'public' and grantee = 'sightline_clerk'
  loop
    execute format('grant %s (%I) on public.%I to sightline_maintenance',
      found.privilege_type, found.column_name, found.table_name);
    execute format('revoke %s (%I) on public.%I from sightline_clerk',
      found.privilege_type, found.column_name, found.table_name);
  end loop;
  grant execute on function ensure_audit_partition to sightline_maintenance;
  revoke execute on function ensure_audit_partition from sightline_clerk;
end $$
"""


def upgrade() -> None:
    op.execute(RENAME_IN_POLICIES)
    op.execute(MOVE_PRIVILEGES)
    op.alter_column("grants", "passed_over", new_column_name="bypassed_approvals")
    op.execute(
        "update notices set event = 'break_glass', body = jsonb_set(body, '{type}',"
        """ '"grant.break_glass"') where event = 'glass_broken'"""
    )
    _rename_recorded_accesses()


def _rename_recorded_accesses() -> None:
    """Events are append-only for everybody; before the first release this once they are rewritten,
    with the trigger away for as long as the transaction."""
    tables = sa.text(
        "select c.oid::regclass::text from pg_class c where c.relname like 'audit\\_events%'"
        " and c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace"
        " and not c.relispartition or c.oid in (select inhrelid from pg_inherits"
        " where inhparent = 'public.audit_events'::regclass and c.relkind = 'r')"
    )
    connection = op.get_bind()
    names = list(connection.scalars(tables))
    for name in names:
        op.execute(f"alter table {name} disable trigger append_only")
    op.execute(
        "update audit_events set kind = 'access',"
        """ event = jsonb_set(event, '{kind}', '"access"') where kind = 'look'"""
    )
    for name in names:
        op.execute(f"alter table {name} enable trigger append_only")
