"""PostgreSQL roles: one for each kind of scope, and a login for each kind of process."""

from collections.abc import Mapping
from typing import Literal

from sqlalchemy import text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session

from webapp.db.limits import LOGIN_SETTINGS

TENANT_ROLE = "sightline_tenant"
GLOBAL_ROLE = "sightline_global"
IDENTITY_ROLE = "sightline_identity"
DIRECTORY_ROLE = "sightline_directory"
LEDGER_ROLE = "sightline_ledger"
RELAY_ROLE = "sightline_relay"
POLICY_ROLE = "sightline_policy"
PRINCIPAL_ROLE = "sightline_principal"
MAINTENANCE_ROLE = "sightline_maintenance"
SEALING_ROLE = "sightline_sealing"
LOG_ROLE = "sightline_log"
ADMINISTRATION_ROLE = "sightline_administration"

SCOPE_ROLES = (
    TENANT_ROLE,
    GLOBAL_ROLE,
    IDENTITY_ROLE,
    DIRECTORY_ROLE,
    LEDGER_ROLE,
    RELAY_ROLE,
    POLICY_ROLE,
    PRINCIPAL_ROLE,
    MAINTENANCE_ROLE,
    SEALING_ROLE,
    LOG_ROLE,
    ADMINISTRATION_ROLE,
)
"""The roles that transactions run as, one for each kind of scope."""

Process = Literal["web", "worker", "commands"]
"""The kinds of processes that log in to the database."""

LOGINS: dict[Process, tuple[str, ...]] = {
    "web": (
        TENANT_ROLE,
        GLOBAL_ROLE,
        IDENTITY_ROLE,
        RELAY_ROLE,
        POLICY_ROLE,
        PRINCIPAL_ROLE,
        LOG_ROLE,
        ADMINISTRATION_ROLE,
    ),
    "worker": (
        TENANT_ROLE,
        GLOBAL_ROLE,
        POLICY_ROLE,
        LEDGER_ROLE,
        MAINTENANCE_ROLE,
        SEALING_ROLE,
        LOG_ROLE,
    ),
    "commands": SCOPE_ROLES,
}
"""The scope roles that each kind of process may become, and no other."""

CONNECTION_SHARES: dict[Process, int] = {"web": 60, "worker": 20, "commands": 15}
"""How many of a hundred of the server's connections each login has, unless a setting says how many
it has. So none takes all of them, and the owner and DBAs have some left."""


def login_role(process: Process) -> str:
    """The name of the login of a kind of process, unless a DBA has made another one."""
    return f"sightline_{process}"


LOGIN_ROLES = tuple(map(login_role, LOGINS))


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
select 'may become ' || g.rolname from pg_roles g, pg_roles u
  where u.rolname = session_user and not u.rolsuper and g.oid <> u.oid
    and g.rolname <> all (%s) and pg_has_role(u.oid, g.oid, 'MEMBER')
union all
select 'owns ' || c.relname from pg_class c join pg_roles u on u.oid = c.relowner
  where u.rolname = session_user
    and c.relnamespace not in (select oid from pg_namespace where nspname like 'pg\\_%%')
"""


def refuse_unsafe_login_role(connection: DBAPIConnection, process: Process) -> None:
    """Raise `UnsafeLoginRole` unless the login role owns nothing and only enters scopes.

    The scopes are those that a kind of process needs.
    """
    cursor = connection.cursor()
    try:
        cursor.execute(_LOGIN_ROLE_PROBLEMS, (list(LOGINS[process]),))
        problems = sorted({row[0] for row in cursor.fetchall()})
    finally:
        cursor.close()
        connection.rollback()
    if problems:
        raise UnsafeLoginRole(
            f"the database's login role {', '.join(problems)}:"
            f" log in like {login_role(process)}, which `flask db roles` makes"
        )


_SETTINGS = text(
    "select r.rolname, r.rolcanlogin, coalesce(s.setconfig, '{}')"
    " from pg_roles r left join pg_db_role_setting s on s.setrole = r.oid"
    "  and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))"
    " where r.rolname in (select session_user union select unnest(cast(:roles as text[])))"
    "  or r.oid in (select a.member from pg_auth_members a join pg_roles g on g.oid = a.roleid"
    "   where g.rolname = any(:scopes) and a.set_option)"
    " order by 1"
)


def find_unlimited_logins(session: Session) -> list[str]:
    """Find why one login could take all of the server's connections; nothing where none could."""
    rows = session.execute(_CONNECTION_LIMITS, {"roles": list(LOGIN_ROLES)}).all()
    unlimited = [f"{role} has no connection limit" for role, limit, _ in rows if limit < 0]
    together = sum(limit for _, limit, _ in rows)
    if not unlimited and rows and together >= rows[0].max_connections:
        return [f"together they may have {together} of {rows[0].max_connections} connections"]
    return unlimited


_CONNECTION_LIMITS = text(
    "select rolname, rolconnlimit, cast(current_setting('max_connections') as int) max_connections"
    " from pg_roles where rolname = session_user or rolname = any(:roles) order by 1"
)


def find_setting_differences(session: Session) -> list[str]:
    """Find where the settings of scopes' roles and logins are not what they should be.

    Each login has LOGIN_SETTINGS, and nobody has others. A role may set its own, so whoever has
    its password can make it read-only, or change what its queries mean. No value is told.
    """
    roles = [*SCOPE_ROLES, *LOGIN_ROLES]
    rows = session.execute(_SETTINGS, {"roles": roles, "scopes": list(SCOPE_ROLES)})
    held: dict[str, dict[str, str]] = {}
    wanted: dict[str, Mapping[str, str]] = {}
    for role, is_login, settings in rows:
        wanted[role] = LOGIN_SETTINGS if is_login else {}
        held.setdefault(role, {}).update(setting.split("=", 1) for setting in settings)
    return [
        f"{role}: {name}"
        for role, found in held.items()
        for name in sorted(found.keys() | wanted[role].keys())
        if found.get(name) != wanted[role].get(name)
    ]
