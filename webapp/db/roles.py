"""PostgreSQL roles: one for each kind of scope, and the check of the role that logs in."""

from sqlalchemy import text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session

TENANT_ROLE = "sightline_tenant"
GLOBAL_ROLE = "sightline_global"
IDENTITY_ROLE = "sightline_identity"
LEDGER_ROLE = "sightline_ledger"
POLICY_ROLE = "sightline_policy"
PRINCIPAL_ROLE = "sightline_principal"
MAINTENANCE_ROLE = "sightline_maintenance"

SCOPE_ROLES = (
    TENANT_ROLE,
    GLOBAL_ROLE,
    IDENTITY_ROLE,
    LEDGER_ROLE,
    POLICY_ROLE,
    PRINCIPAL_ROLE,
    MAINTENANCE_ROLE,
)
"""The roles that transactions run as, one for each kind of scope. The login role may enter each."""


class UnsafeLoginRole(RuntimeError):
    """The application's login role could step around row level security."""


_LOGIN_ROLE_PROBLEMS = """
select 'is a superuser' from pg_roles where rolname = session_user and rolsuper
union all
select 'has BYPASSRLS' from pg_roles where rolname = session_user and rolbypassrls
union all
select 'has CREATEROLE' from pg_roles where rolname = session_user and rolcreaterole
union all
select 'inherits ' || g.rolname from pg_auth_members m
  join pg_roles g on g.oid = m.roleid join pg_roles u on u.oid = m.member
  where u.rolname = session_user and m.inherit_option
union all
select 'may become ' || g.rolname from pg_roles g
  where (g.rolsuper or g.rolbypassrls or g.oid in (select relowner from pg_class
         where relnamespace = 'public'::regnamespace))
    and g.rolname <> session_user and pg_has_role(session_user, g.oid, 'MEMBER')
union all
select 'owns ' || c.relname from pg_class c join pg_roles u on u.oid = c.relowner
  where u.rolname = session_user
    and c.relnamespace not in (select oid from pg_namespace where nspname like 'pg\\_%')
"""


def refuse_unsafe_login_role(connection: DBAPIConnection) -> None:
    """Raise `UnsafeLoginRole` unless the login role owns nothing and only enters scopes."""
    cursor = connection.cursor()
    try:
        cursor.execute(_LOGIN_ROLE_PROBLEMS)
        problems = sorted({row[0] for row in cursor.fetchall()})
    finally:
        cursor.close()
        connection.rollback()
    if problems:
        raise UnsafeLoginRole(f"the database's login role {', '.join(problems)}")


_OWN_SETTINGS = text(
    "select r.rolname, split_part(setting, '=', 1)"
    " from pg_db_role_setting s join pg_roles r on r.oid = s.setrole, unnest(s.setconfig) setting"
    " where r.rolname in (select session_user union select unnest(cast(:roles as text[])))"
    " and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))"
    " order by 1, 2"
)


def own_settings(session: Session) -> list[tuple[str, str]]:
    """The settings that `alter role` gave to the application's roles: pairs of role and setting.

    There should be none. A role may set its own, so whoever has its password can make it read-only
    for all processes, or change what its queries mean.
    """
    rows = session.execute(_OWN_SETTINGS, {"roles": list(SCOPE_ROLES)})
    return [(role, setting) for role, setting in rows]
