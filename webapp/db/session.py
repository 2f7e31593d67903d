"""The database: the declarative base, and a session whose transactions run in exactly one scope.

PostgreSQL's row level security is the boundary between tenants. A session without a scope refuses
to begin a transaction; with one, a single statement sets the role and the settings that the
policies read, for that transaction only. A later transaction of the same session sets them again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

import psycopg2
from sqlalchemy import Connection, MetaData, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Session, SessionTransaction

from webapp.db.scopes import (
    GlobalScope,
    IdentityScope,
    LedgerScope,
    MaintenanceScope,
    PolicyScope,
    PrincipalScope,
    Scope,
    TenantScope,
)

SCOPE_ROLES = (
    "sightline_tenant",
    "sightline_global",
    "sightline_identity",
    "sightline_ledger",
    "sightline_policy",
    "sightline_principal",
    "sightline_maintenance",
)
"""What a transaction runs as, one for each kind of scope; the login role may become them all."""


class UnscopedSession(RuntimeError):
    """A query was about to run outside every scope: a programming error, never an answer."""


class UnsafeLoginRole(RuntimeError):
    """The application's login role could step around row level security."""


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {}


class ScopedSession(Session):
    """A session that belongs to one scope at a time."""

    @property
    def scope(self) -> Scope | None:
        scope: Scope | None = self.info.get("scope")
        return scope

    def enter(self, scope: Scope | None) -> None:
        """End what was open and continue in `scope`: objects loaded before are forgotten, so that
        a warm identity map cannot carry a row from one scope into another."""
        if self.in_transaction() or self.identity_map:
            self.close()
        self.info["scope"] = scope

    @contextmanager
    def scoped(self, scope: Scope) -> Iterator[None]:
        """Run a block in `scope`, then return to the scope before it."""
        before = self.scope
        self.enter(scope)
        try:
            yield
        finally:
            self.enter(before)


_SETTINGS = ("tenant_id", "access", "excluded", "principal_id", "administers", "staff")
"""What the policies read, by their names after `sightline.`; empty where a scope has none."""

_SET_SCOPE = text(
    "select set_config('role', :role, true), "
    + ", ".join(f"set_config('sightline.{name}', :{name}, true)" for name in _SETTINGS)
)


@event.listens_for(ScopedSession, "after_begin")
def _set_scope(session: ScopedSession, _: SessionTransaction, connection: Connection) -> None:
    if session.scope is None:
        raise UnscopedSession("this session has no scope; enter one through webapp.scope.enter")
    connection.execute(_SET_SCOPE, _settings_of(session.scope))


def _settings_of(scope: Scope) -> dict[str, str]:
    match scope:
        case TenantScope(tenant_id):
            return _parameters("sightline_tenant", tenant_id=str(tenant_id))
        case GlobalScope(access_id, excluded):
            return _parameters("sightline_global", access=str(access_id), excluded=excluded.setting)
        case IdentityScope():
            return _parameters("sightline_identity")
        case LedgerScope():
            return _parameters("sightline_ledger")
        case PolicyScope():
            return _parameters("sightline_policy")
        case PrincipalScope(principal_id, administers, staff):
            return _parameters(
                "sightline_principal",
                principal_id=str(principal_id),
                administers=",".join(map(str, sorted(administers))),
                staff="yes" if staff else "",
            )
        case MaintenanceScope():
            return _parameters("sightline_maintenance")


def _parameters(role: str, **settings: str) -> dict[str, str]:
    return {"role": role, **dict.fromkeys(_SETTINGS, ""), **settings}


def violated_constraint(error: IntegrityError) -> str | None:
    """The constraint that was violated, by name."""
    return error.orig.diag.constraint_name if isinstance(error.orig, psycopg2.Error) else None


def in_utc(moment: datetime | None) -> datetime | None:
    """As the database has it, which tells of moments in the session's time zone."""
    return moment.astimezone(UTC) if moment else None


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
