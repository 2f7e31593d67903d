"""Statements to the benchmark's own database, as the owner of its tables."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg2


def run(url: str, statement: str) -> Sequence[Sequence[Any]]:
    """Run a statement in a transaction of its own; returns its rows, if it has any."""
    with (
        closing(psycopg2.connect(url)) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else ()


@contextmanager
def counting(url: str, table: str) -> Iterator[Callable[[], int]]:
    """A function that counts a table's rows, always on the same connection."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True

        def count() -> int:
            cursor.execute(f"select count(*) from {table}")  # noqa: S608 - a constant
            [[rows]] = cursor.fetchall()
            return int(rows)

        yield count
