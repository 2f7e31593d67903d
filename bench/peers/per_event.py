"""Without batches: a Celery task for each event, and in it an INSERT and a commit."""

import os

import psycopg2
from celery import Celery

COLUMNS = ("id", "occurred_at", "actor_email", "surface", "request_id", "event")
TABLE = (
    "create table bench_events (id uuid primary key, occurred_at timestamptz not null,"
    " actor_email text not null, surface text not null, request_id text not null,"
    " event jsonb not null)"
)
INSERT = f"insert into bench_events ({', '.join(COLUMNS)}) values (%s, %s, %s, %s, %s, %s)"  # noqa: S608 - constants
TASK, QUEUE = "bench.insert", "bench"

celery = Celery("per_event", broker=os.environ.get("REDIS_URL"))
celery.conf.update(task_ignore_result=True, task_acks_late=True, worker_redirect_stdouts=False)
_connections: list[psycopg2.extensions.connection] = []


@celery.task(name=TASK, shared=False)  # else every application in the process has it
def insert(*row: str) -> None:
    if not _connections:
        _connections.append(psycopg2.connect(os.environ["BENCH_DATABASE_URL"]))
    [connection] = _connections
    with connection, connection.cursor() as cursor:
        cursor.execute(INSERT, row)
