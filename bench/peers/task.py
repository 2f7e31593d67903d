"""A Celery task for each event, with an INSERT and a COMMIT in it."""

import os
from functools import cache

import psycopg2
from celery import Celery

from bench.peers.audit_table import insert

QUEUE = "bench"

celery = Celery("bench", broker=os.environ.get("REDIS_URL"))
celery.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    task_acks_late=True,
    worker_redirect_stdouts=False,
)


@celery.task(name="bench.insert_row", shared=False)  # else every application in the process has it
def insert_row(*row: str | None) -> None:
    connection = _connect()
    with connection, connection.cursor() as cursor:
        cursor.execute(insert(os.environ["BENCH_TABLE"]), row)


@cache
def _connect() -> psycopg2.extensions.connection:
    """The one connection of this process, opened by its first task."""
    return psycopg2.connect(os.environ["BENCH_DATABASE_URL"])
