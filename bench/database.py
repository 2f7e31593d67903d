"""Statements to the benchmark's own database, as the owner of its tables."""

from collections.abc import Sequence

import psycopg2


def run(url: str, statement: str) -> Sequence[Sequence[int]]:
    """Run a statement in a transaction of its own; returns its rows, if it has any."""
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else ()
    finally:
        connection.close()


def count(url: str, table: str) -> int:
    [[rows]] = run(url, f"select count(*) from {table}")  # noqa: S608 - a constant
    return int(rows)
