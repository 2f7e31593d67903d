"""Give the events that the database writes a salt, as those of the application have one."""

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

# Each has 122 random bits, and the salt is sixteen random bytes.
NEW_SALT = """
create function new_salt() returns text language sql volatile
set search_path = pg_catalog, pg_temp
as $$
  select rtrim(translate(encode(substr(sha256(
    uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 1, 16), 'base64'), '+/', '-_'),
    '=')
$$
"""

# The function is that of migrations 0022 and 0025, but for the salt.
ADD_SALT = """
do $add$
declare
  before constant text := pg_get_functiondef('record_change(text, text, uuid)'::regprocedure);
  after constant text := replace(before,
    '"rows":1,"scope":', '"rows":1,"salt":"'' || public.new_salt() || ''","scope":');
begin
  if before = after then
    raise exception 'record_change writes no rows';
  end if;
  execute after;
end $add$
"""


def upgrade() -> None:
    for statement in (NEW_SALT, "revoke execute on function new_salt from public", ADD_SALT):
        op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
