"""Migrations: bring a database to this version's schema, and make the roles that it needs.

Everything here runs as the tables' owner (DATABASE_OWNER_URL), never as the application.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg2 import errors
from psycopg2.extensions import encrypt_password
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    NullPool,
    create_engine,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from webapp.db.base import Base
from webapp.db.deadline import KEEPALIVES, Connector, UnsupportedServer
from webapp.db.limits import LOGIN_SETTINGS, is_pooled
from webapp.db.roles import CONNECTION_SHARES, LOGINS, SCOPE_ROLES, Process, login_role
from webapp.db.row_security import (
    ALL_PRIVILEGES,
    FUNCTIONS,
    OTHER_TABLES,
    TENANT_TABLES,
    privileges_of,
)
from webapp.settings import Settings

MIGRATIONS = Path(__file__).parents[2] / "migrations"

TURN_LIMIT = 600
"""Seconds that a release waits for another one, which may have much to migrate."""

LOCK_LIMIT = 5
"""Seconds that a migration waits for a lock, with all that queue up behind it."""

_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]  # named, or percent signs are doubled
_MAY_MAKE_ROLES = text(
    "select rolsuper or rolcreaterole from pg_roles where rolname = current_user"
)
MAKE_VERSIONS = text(
    "create table if not exists alembic_version"
    " (version_num varchar(32) not null constraint alembic_version_pkc primary key)"
)
"""Alembic's own table, made early: only the owner can lock it against another release."""
_TAKE_TURNS = text("lock table alembic_version in share row exclusive mode")
_LIMIT_LOCKS = text("select set_config('lock_timeout', :limit, true)")
_GRANTED_ROLES = text(
    "select u.rolname, g.rolname from pg_auth_members m join pg_roles g on g.oid = m.roleid"
    " join pg_roles u on u.oid = m.member where m.set_option"
)
_UNLIMITED_LOGINS = text(
    "select r.rolname from pg_roles r"
    " left join pg_db_role_setting s on s.setrole = r.oid and s.setdatabase = 0"
    " where r.rolname = any(:logins)"
    " and pg_has_role(current_user, r.oid, 'MEMBER WITH ADMIN OPTION')"
    " and not coalesce(s.setconfig, '{}') @> cast(:settings as text[])"
)
"""Of these logins those without their limits, as far as the owner may change them."""


class NotMigrated(Exception):
    """Why nothing was migrated. The text is for the operator."""


@dataclass(frozen=True)
class Drift:
    """The differences between a database, this version's migrations and its models."""

    pending: tuple[str, ...]
    differences: tuple[str, ...]
    """Of a later version's schema only those that this version cannot run beside."""
    later: tuple[str, ...] = ()
    """Revisions of the database that only a later version knows."""

    def __bool__(self) -> bool:
        return bool(self.pending or self.differences)


@dataclass(frozen=True)
class Upgraded:
    """What an upgrade has done: nothing where the database has a later version's schema."""

    revisions: tuple[str, ...]
    later: tuple[str, ...] = ()


@dataclass(frozen=True)
class Revisions:
    """The revisions that this version has."""

    heads: frozenset[str]
    """The newest ones, which a database of this version has."""
    known: frozenset[str]


def revisions() -> Revisions:
    script = ScriptDirectory(MIGRATIONS)
    known = frozenset(revision.revision for revision in script.walk_revisions())
    return Revisions(frozenset(script.get_heads()), known)


def upgrade(settings: Settings) -> Upgraded:
    """Make the roles that are missing and run what is pending."""
    with _owner(settings, statement_limit=None) as connection:
        _take_turn(connection)
        if later := _later(connection):
            _require_what_is_needed(connection, later)
            return Upgraded((), later)
        try:
            connection.execute(_LIMIT_LOCKS, {"limit": f"{LOCK_LIMIT}s"})
            login = make_url(settings.database_url)
            _make_roles(connection, login)
            _limit_logins(connection, logins(login.username or ""))
            _limit_connections(connection, login.username or "", settings.database_connections)
            pending = _pending(connection)
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, "heads")
            connection.commit()
        except OperationalError as error:
            _raise_if_locked(
                error, f"somebody has held a lock that a migration needs for {LOCK_LIMIT} s"
            )
            raise
    return Upgraded(pending)


def _require_what_is_needed(connection: Connection, later: Iterable[str]) -> None:
    if list(filter(_is_in_the_way, _differences(connection))):
        raise NotMigrated(
            f"Nothing was changed: the database has a later version's schema ({', '.join(later)}),"
            " and this version cannot run beside it; `flask db check` says why"
        )


def _take_turn(connection: Connection) -> None:
    """Wait until no other release migrates; the transaction that begins here keeps others out."""
    while True:
        try:
            connection.execute(_LIMIT_LOCKS, {"limit": f"{TURN_LIMIT}s"})
            connection.execute(MAKE_VERSIONS)
            connection.execute(_TAKE_TURNS)
        except OperationalError as error:
            _raise_if_locked(error, f"another release has been migrating for {TURN_LIMIT} s")
            raise
        except (IntegrityError, ProgrammingError) as error:
            # Another first release has made the table meanwhile.
            if not isinstance(error.orig, (errors.UniqueViolation, errors.DuplicateTable)):
                raise
            connection.rollback()
        else:
            return


def _raise_if_locked(error: OperationalError, problem: str) -> None:
    if isinstance(error.orig, errors.LockNotAvailable):
        raise NotMigrated(f"Nothing was changed: {problem}; try again") from error


def reach(settings: Settings) -> None:
    """Connect as the owner; raises `NotMigrated` where that goes through a pooler."""
    with _owner(settings, statement_limit=settings.database_timeout):
        pass


def check(settings: Settings) -> Drift:
    """Compare the database with the migrations, and the models with the database."""
    with _owner(settings, statement_limit=settings.database_timeout) as connection:
        later = _later(connection)
        pending = () if later else _pending(connection)
        differences = _differences(connection)
    if later:
        differences = list(filter(_is_in_the_way, differences))
    return Drift(pending, tuple(map(str, differences)), later)


def _differences(connection: Connection) -> list[Any]:
    """The differences from the models, each as Alembic has it: a tuple, or a list of a column's."""
    opts = {"compare_type": True, "include_name": _is_migrated}
    context = MigrationContext.configure(connection, opts=opts)
    return list(compare_metadata(context, Base.metadata))


def _is_in_the_way(difference: Any) -> bool:
    """Whether this version cannot run where a later one has made this difference.

    It can where something was added that it does not know, as long as it may leave that out.
    """
    match difference:
        case list():
            return any(map(_is_in_the_way, difference))
        case ("remove_column", _, _, column):
            return not column.nullable and column.server_default is None
        case ("modify_nullable", _, _, _, _, bool(may_be_null), _):
            return not may_be_null
        case (str(kind), *_):
            return not kind.startswith("remove_")
    return True


def _is_migrated(name: str | None, kind: str, _: object) -> bool:
    """Whether a migration makes it. The ledger's partitions are made month by month instead."""
    return not (kind == "table" and name and re.fullmatch(r"audit_events_\d{6}", name))


def logins(named: str = "") -> dict[str, Process]:
    """The logins to make: one for each kind of process.

    A name that is none of theirs, as DATABASE_URL may have it, is the login of commands.
    """
    made = {login_role(process): process for process in LOGINS}
    if named and named not in made:
        del made[login_role("commands")]
        made[named] = "commands"
    return made


def role_statements(named: str = "") -> list[str]:
    """The SQL that makes the roles. Running a statement again changes nothing."""
    attributes = "login nosuperuser nocreatedb nocreaterole nobypassrls noinherit"
    return [
        *(_create_role(role, "nologin nosuperuser nobypassrls noinherit") for role in SCOPE_ROLES),
        *(_create_role(login, attributes) for login in logins(named)),
        *(
            f"grant {', '.join(LOGINS[process])} to {identifier(login)}"
            " with inherit false, set true"
            for login, process in logins(named).items()
        ),
    ]


def limit_statements(login: str) -> list[str]:
    """The SQL that gives a login its limits, which hold through a pooler too."""
    return [
        f"alter role {identifier(login)} set {name} = {_literal(value)}"
        for name, value in LOGIN_SETTINGS.items()
    ]


def connection_statements(
    named: str = "", limits: Mapping[Process, int] | None = None
) -> list[str]:
    """The SQL that says how many connections each login may have at once.

    Without `limits`, that is its share of the server's, and a login that has a limit keeps it.
    """
    if limits is not None:
        return [
            f"alter role {identifier(login)} connection limit {limits[process]}"
            for login, process in logins(named).items()
        ]
    return [
        _SHARE.format(login=_literal(login), percent=CONNECTION_SHARES[process])
        for login, process in logins(named).items()
    ]


_SHARE = (
    "do $limit$ begin if (select rolconnlimit < 0 from pg_roles where rolname = {login}) then"
    " execute format('alter role %I connection limit %s', {login},"
    " current_setting('max_connections')::int * {percent} / 100); end if; end $limit$"
)


BACKUP_ROLE = (
    "create role sightline_backup login bypassrls noinherit",
    "grant pg_read_all_data to sightline_backup with inherit true",
)
"""The SQL that makes a role for `pg_dump`. Row level security is forced on the owner, too."""


def describe_privileges(role: str) -> str:
    """What a scope's role may do, which migrations have granted: tables first, then functions."""
    of_table = [
        f"{', '.join(held)} on {table}"
        for table in sorted({*TENANT_TABLES, *OTHER_TABLES})
        if (held := _in_order(name for holder, name in privileges_of(table) if holder == role))
    ]
    return "; ".join([*of_table, *(f"{name}()" for name in FUNCTIONS if role in FUNCTIONS[name])])


def _in_order(privileges: Iterable[str]) -> list[str]:
    return sorted(privileges, key=ALL_PRIVILEGES.index)


def _create_role(role: str, attributes: str) -> str:
    missing = f"not exists (select from pg_roles where rolname = {_literal(role)})"
    create = f"create role {identifier(role)} {attributes}"
    return f"do $make$ begin if {missing} then {create}; end if; end $make$"


def identifier(name: str) -> str:
    """Quote a name for SQL and for psql's commands."""
    return _DIALECT.identifier_preparer.quote(name)


def _literal(value: str) -> str:
    doubled = value.replace("'", "''")
    return f"'{doubled}'"


def _make_roles(connection: Connection, login: URL) -> None:
    """Make the roles that are missing.

    Roles belong to the whole server: the migration of another database may have made them. Only the
    login that DATABASE_URL names gets a password here: nobody else's is known.
    """
    name = login.username or ""
    existing = set(connection.scalars(text("select rolname from pg_roles")))
    granted = {tuple(row) for row in connection.execute(_GRANTED_ROLES)}
    wanted = {(made, role) for made, kind in logins(name).items() for role in LOGINS[kind]}
    if {*SCOPE_ROLES, *logins(name)} <= existing and wanted <= granted:
        return
    if not connection.scalar(_MAY_MAKE_ROLES):
        raise NotMigrated(
            "DATABASE_OWNER_URL may not create roles: have a DBA run what `flask db roles` prints"
        )
    statements = role_statements(name)
    if name not in existing and login.password is not None:
        # Encrypted here, as by psql's \password: no statement, error or log holds the password.
        driver = connection.connection.driver_connection
        password = encrypt_password(str(login.password), name, scope=driver)
        statements.append(f"alter role {identifier(name)} password {_literal(password)}")
    _run(connection, statements)


def _limit_logins(connection: Connection, names: Iterable[str]) -> None:
    """Give logins their limits. `flask doctor` names those that the owner may not change."""
    settings = [f"{name}={value}" for name, value in LOGIN_SETTINGS.items()]
    asked = {"logins": list(names), "settings": settings}
    for login in connection.scalars(_UNLIMITED_LOGINS, asked).all():
        _run(connection, limit_statements(login))


def _limit_connections(
    connection: Connection, named: str, limits: Mapping[Process, int] | None
) -> None:
    """Limit the connections of logins, as far as the owner may: `flask doctor` names the others."""
    may_change = set(connection.scalars(_CHANGEABLE, {"logins": list(logins(named))}))
    statements = zip(logins(named), connection_statements(named, limits), strict=True)
    _run(connection, [statement for login, statement in statements if login in may_change])


_CHANGEABLE = text(
    "select rolname from pg_roles where rolname = any(:logins)"
    " and pg_has_role(current_user, oid, 'MEMBER WITH ADMIN OPTION')"
)


def _run(connection: Connection, statements: Iterable[str]) -> None:
    """Run statements as they are: a percent sign in a name is no parameter."""
    for statement in statements:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _later(connection: Connection) -> tuple[str, ...]:
    """The database's revisions that this version does not know."""
    current = MigrationContext.configure(connection).get_current_heads()
    return tuple(sorted(set(current) - revisions().known))


def _pending(connection: Connection) -> tuple[str, ...]:
    script = ScriptDirectory(MIGRATIONS)
    current = MigrationContext.configure(connection).get_current_heads()
    ahead = script.iterate_revisions("heads", current or "base")
    return tuple(revision.revision for revision in ahead if revision.revision not in current)


@contextmanager
def _connected(engine: Engine) -> Iterator[Connection]:
    try:
        connection = engine.connect()
    except OperationalError as error:
        if isinstance(error.orig, UnsupportedServer):
            raise NotMigrated(str(error.orig)) from error
        raise
    with connection:
        yield connection


@contextmanager
def _owner(settings: Settings, *, statement_limit: float | None) -> Iterator[Connection]:
    """Connect as the tables' owner, with a limit to each statement in seconds, if it has one."""
    if settings.database_owner_url is None:
        raise NotMigrated("DATABASE_OWNER_URL is not set: `flask db` works as the tables' owner")
    connector = Connector(statement_limit)
    limit = f"{ceil((statement_limit or 0) * 1000)}ms"
    engine = create_engine(
        settings.database_owner_url,
        poolclass=NullPool,
        connect_args={
            "connection_factory": connector.connect,
            **KEEPALIVES,
        },
    )
    with _connected(engine) as connection:
        if is_pooled(connection):
            raise NotMigrated("DATABASE_OWNER_URL goes through a pooler: name the database itself")
        connection.execute(select(func.set_config("statement_timeout", limit, False)))
        connection.commit()
        yield connection
