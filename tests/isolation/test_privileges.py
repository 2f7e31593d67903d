"""What each login may become, and what each role may do in each table: the declared, and no more.

The logins are those of the web server, the worker and the commands, on connections of their own.
"""

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from tests.isolation.logins import connected
from webapp.db.roles import LOGINS, SCOPE_ROLES, Process, login_role
from webapp.db.row_security import FUNCTIONS, OTHER_TABLES, TENANT_TABLES, privileges_of

PRIVILEGES = text(
    """
    select c.relname, lower(privilege)
    from pg_class c, unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES',
      'TRIGGER']) privilege
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
      and (has_table_privilege(c.oid, privilege)
        or privilege not in ('DELETE', 'TRUNCATE', 'TRIGGER')
        and has_any_column_privilege(c.oid, privilege))
    """
)
"""What the current role may do, also to some columns of a table only."""

TABLES = {*TENANT_TABLES, *OTHER_TABLES}


def test_every_table_is_declared(owner_engine: Engine) -> None:
    with owner_engine.connect() as connection:
        names = connection.scalars(
            text(
                "select relname from pg_class where relnamespace = 'public'::regnamespace"
                " and relkind in ('r', 'p') and not relispartition"
            )
        )
        assert set(names) == TABLES


@pytest.mark.parametrize("role", SCOPE_ROLES)
@pytest.mark.parametrize("login", LOGINS)
def test_login_becomes_only_its_roles_and_these_do_only_what_is_declared(
    environment: dict[str, str], login: Process, role: str
) -> None:
    expected = {
        (table, privilege)
        for table in TABLES
        for holder, privilege in privileges_of(table)
        if holder == role
    }
    with connected(environment, login) as connection:
        if role in LOGINS[login]:
            connection.execute(text(f"set role {role}"))
            held = {tuple(row) for row in connection.execute(PRIVILEGES)}
            assert held == expected
        else:
            with pytest.raises(ProgrammingError, match="permission denied to set role"):
                connection.execute(text(f"set role {role}"))


FUNCTIONS_OF_ROLE = text(
    "select proname from pg_proc where pronamespace = 'public'::regnamespace and prosecdef"
    " and has_function_privilege(oid, 'execute')"
)


@pytest.mark.parametrize("role", SCOPE_ROLES)
def test_role_calls_only_the_declared_functions_of_the_owner(
    environment: dict[str, str], role: str
) -> None:
    expected = {name for name, roles in FUNCTIONS.items() if role in roles}
    with connected(environment, "commands") as connection:
        assert connection.scalars(FUNCTIONS_OF_ROLE).all() == []
        connection.execute(text(f"set role {role}"))
        assert set(connection.scalars(FUNCTIONS_OF_ROLE)) == expected


def test_functions_of_the_owner_find_no_object_of_the_caller(owner_engine: Engine) -> None:
    unsafe = text(
        "select proname from pg_proc where pronamespace = 'public'::regnamespace and prosecdef"
        " and not coalesce('search_path=pg_catalog, pg_temp' = any (proconfig), false)"
    )
    with owner_engine.connect() as connection:
        assert connection.scalars(unsafe).all() == []


@pytest.mark.parametrize("login", LOGINS)
def test_login_may_do_nothing_in_any_table_by_itself(
    environment: dict[str, str], login: Process
) -> None:
    with connected(environment, login) as connection:
        assert connection.execute(PRIVILEGES).all() == []


@pytest.mark.parametrize("login", LOGINS)
def test_login_may_become_no_role_beside_its_scopes(
    environment: dict[str, str], login: Process
) -> None:
    others = text("select rolname from pg_roles where pg_has_role(oid, 'member')")
    with connected(environment, login) as connection:
        assert set(connection.scalars(others)) == {login_role(login), *LOGINS[login]}
