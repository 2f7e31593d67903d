"""What people do: a Flask view that inserts and commits its audit row before it answers."""

import os

from flask import request
from psycopg2.pool import ThreadedConnectionPool

from bench.peers.audit_table import insert, row_of
from bench.peers.cached import make_app

CONNECTIONS = 16
"""At least one for each thread of the web server: none waits for another's."""

INSERT = insert(os.environ["BENCH_TABLE"])
pool = ThreadedConnectionPool(CONNECTIONS, CONNECTIONS, os.environ["BENCH_DATABASE_URL"])


def record() -> None:
    connection = pool.getconn()
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(INSERT, row_of(request))
    finally:
        pool.putconn(connection)


app = make_app(record)
