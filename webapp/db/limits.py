"""What a login's statements are limited to, and how they run: the same through a pooler.

A pooler hands each transaction to any of its connections, and refuses options at the start of one.
So each transaction says for itself how it runs (`webapp.db.session`), and `flask db upgrade` gives
each login limits for whatever is run outside one.
"""

from collections.abc import Mapping
from math import ceil
from typing import cast

from psycopg2.extensions import ISOLATION_LEVEL_READ_COMMITTED, connection
from sqlalchemy import Connection, func, select

LOGIN_SETTINGS = {
    "idle_in_transaction_session_timeout": "60s",
    "statement_timeout": "60s",
}
"""What `alter role` sets for each login. `flask doctor` tells of any other, and of one missing."""


def limits_of_statements(timeout: float) -> dict[str, str]:
    """The settings of PostgreSQL that each transaction sets for itself.

    `timeout`: the seconds that one statement may take.
    """
    return {
        "statement_timeout": f"{ceil(timeout * 1000)}ms",
        # A request left idle in its transaction must not hold row locks for ever.
        "idle_in_transaction_session_timeout": "60s",
        # Whoever has a login's password may give it settings of its own. These two would stop
        # every process, until somebody has reset them.
        "search_path": "public",
        "lock_timeout": "0",
    }


def prepare_connection(
    made: connection, limits: Mapping[str, str], *, readonly: bool = False
) -> None:
    """Let a new connection begin transactions that write, or only read, and be limited before the
    first one.

    A login could have been made read-only by whoever has its password. Behind a pooler the limits
    are left to the transactions: they would reach those of other processes.
    """
    made.autocommit = True
    with made.cursor() as cursor:
        cursor.execute("select pg_catalog.pg_backend_pid()")
        if cursor.fetchall() == [(made.info.backend_pid,)]:
            for name, value in limits.items():
                cursor.execute("select pg_catalog.set_config(%s, %s, false)", (name, value))
    made.autocommit = False
    made.set_session(isolation_level=ISOLATION_LEVEL_READ_COMMITTED, readonly=readonly)


def is_pooled(asking: Connection) -> bool:
    """Whether a pooler stands between: it names another process than the one that answers."""
    driver = cast(connection, asking.connection.driver_connection)
    return asking.scalar(select(func.pg_backend_pid())) != driver.info.backend_pid
