"""From journal to ledger with one worker process, beside a task for each event, and beside the
fastest way that the driver has; then from the ledger into the log, and what queueing for it costs.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from uuid import uuid4

import psycopg2
from flask import Flask
from psycopg2.extras import execute_values
from sqlalchemy import Text, cast, func, select

from bench import database
from bench.machine import NOTHING_PINNED
from bench.peers import audit_table, task
from bench.result import Figure, Ratio, Results, ratios
from bench.servers import Place, run_task_worker
from tests.applications import application
from tests.audit.events import make_event
from tests.processes import run_worker
from webapp.audit.append import append_own
from webapp.audit.event import dump_event
from webapp.audit.journal.service import Journal
from webapp.audit.models import AuditEventRow
from webapp.audit.relay import pipeline
from webapp.audit.signature import sign_event
from webapp.db.base import Base
from webapp.db.scopes import GlobalScope, SealingScope
from webapp.extensions import db
from webapp.ledger.sealing import sealer
from webapp.ledger.sealing.following import Host, follow_and_report, this_host
from webapp.settings import current_settings
from webapp.stack.home import open_stack, running

EVENTS, TASKS = 5000, 500
BATCH = 500
TASK_TABLE, LIMIT_TABLE = "bench_tasks", "bench_ledger"
PATIENCE = 120
POLL = 0.02
OURS = "audit events, journal to ledger"
SEALING = "audit events sealed in the log"
QUEUEING = "appending events that are queued for the log"


def measure_commits(home: Path, rounds: int, results: Results) -> None:
    stack = open_stack(home, durable=True)
    environment = {**stack.environment, "SIGHTLINE_ENV": "qa", "SIGHTLINE_HOME": str(home)}
    place = Place(NOTHING_PINNED, environment, home)
    ours, tasks, limit, sealed, queued = [], [], [], [], []
    with running(stack), application(environment) as app:
        database.run(place.database, audit_table.create(TASK_TABLE))
        database.run(
            place.database, f"create table {LIMIT_TABLE} (like audit_events including all)"
        )
        pipeline.start(app)
        for _ in range(rounds):
            with run_worker(environment, home / "worker.log", "--concurrency", "1"):
                ours.append(_commit_journal(app, results))
            tasks.append(_insert_by_tasks(place, results))
            limit.append(_insert_by_values(app, place))
            sealed.append(_seal(app, results))
            queued.append(_queue(app, place))
        pipeline.stop(app, 5)
    results.ratios.append(Ratio(OURS, "a task and an INSERT for each", ratios(ours, tasks), 12))
    results.ratios.append(Ratio(OURS, "execute_values of its rows", ratios(ours, limit), 0.25))
    results.ratios.append(Ratio(SEALING, OURS, ratios(sealed, ours), 1))
    results.ratios.append(Ratio(QUEUEING, "without the queue", tuple(queued), 0.9))
    results.figures.append(Figure(OURS, median(ours), "/s", "one worker process"))
    results.figures.append(Figure(SEALING, median(sealed), "/s", "one process"))


def _commit_journal(app: Flask, results: Results) -> float:
    """Leave a journal as a dead process would, and time its events into the ledger."""
    settings = app.extensions["settings"]
    journal = Journal(settings.journal_dir, partial(sign_event, settings.signing_key), 2**30)
    before = _count_committed(app)
    events = [make_event() for _ in range(EVENTS)]
    for start in range(0, EVENTS, BATCH):
        journal.finalize(events[start : start + BATCH], PATIENCE)
    journal.close(PATIENCE)
    rate = _rate(lambda: _count_committed(app) - before, EVENTS)
    results.expect(_count_committed(app) == before + EVENTS, f"{OURS}: not each event once")
    return rate


def _count_committed(app: Flask) -> int:
    with app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        return db.session.scalars(select(func.count()).select_from(AuditEventRow)).one()


def _seal(app: Flask, results: Results) -> float:
    """Seal events that are in the ledger, as a worker's task does, with this host's copy."""
    with app.app_context(), db.scoped(SealingScope()):
        host = this_host(current_settings())
        while _seal_batch(host):
            pass  # what the worker has left
        _append(EVENTS)
        began, sealed = time.perf_counter(), 0
        while batch := _seal_batch(host):
            sealed += batch
        seconds = time.perf_counter() - began
    results.expect(sealed == EVENTS, f"{SEALING}: {sealed} of {EVENTS}")
    return EVENTS / seconds


def _seal_batch(host: Host) -> int:
    sealed = sealer.seal(db.session, host.keys, host.copies, host.name)
    db.session.commit()
    follow_and_report(db.session, host)
    db.session.commit()
    return 0 if sealed is None else sealed.entries


def _append(count: int) -> float:
    """Append events in batches, and return the seconds that it took."""
    events = [make_event(origin=None) for _ in range(count)]
    began = time.perf_counter()
    for start in range(0, count, BATCH):
        append_own(db.session, events[start : start + BATCH])
        db.session.commit()
    return time.perf_counter() - began


def _queue(app: Flask, place: Place) -> float:
    """Append events with and without the trigger that queues them, in turns."""
    seconds = {"enable": 0.0, "disable": 0.0}
    with app.app_context(), db.scoped(SealingScope()):
        for turn in ("disable", "enable", "enable", "disable"):
            database.run(place.database, f"alter table audit_events {turn} trigger queued")
            seconds[turn] += _append(BATCH * 4)
    database.run(place.database, "alter table audit_events enable trigger queued")
    return seconds["disable"] / seconds["enable"]


def _insert_by_tasks(place: Place, results: Results) -> float:
    """A task and a COMMIT for each row; every task is in the broker when the worker starts."""
    database.run(place.database, f"truncate {TASK_TABLE}")
    task.celery.conf.update(broker_url=place.environment["REDIS_URL"])
    for _ in range(TASKS):
        task.insert_row.delay(*_task_row())
    with (
        database.counting(place.database, TASK_TABLE) as count,
        run_task_worker(place, TASK_TABLE, processes=1),
    ):
        rate = _rate(count, TASKS)
        rows = count()
    results.expect(rows == TASKS, f"a task for each: {rows} rows for {TASKS} events")
    return rate


def _task_row() -> audit_table.Row:
    event = make_event()
    return (
        str(event.id),
        None,
        event.occurred_at.isoformat(),
        event.actor.email,
        event.surface,
        event.reason.code if event.reason else None,
        event.request.id,
        dump_event(event).decode(),
    )


def _insert_by_values(app: Flask, place: Place) -> float:
    """The limit: the ledger's own rows into its own indexes, with nothing to check before."""
    columns, rows = _ledger_rows(app)
    database.run(place.database, f"truncate {LIMIT_TABLE}")
    connection = psycopg2.connect(place.database)
    began = time.perf_counter()
    with connection, connection.cursor() as cursor:
        statement = f"insert into {LIMIT_TABLE} ({', '.join(columns)}) values %s"  # noqa: S608 - constants
        execute_values(cursor, statement, rows, page_size=BATCH)
    seconds = time.perf_counter() - began
    connection.close()
    return EVENTS / seconds


def _ledger_rows(app: Flask) -> tuple[list[str], list[tuple[str | None, ...]]]:
    """The names of the ledger's columns, and as many of its rows as are inserted, all as text."""
    table = Base.metadata.tables[AuditEventRow.__tablename__]
    columns = [column for column in table.columns if column.server_default is None]
    chosen = select(*(cast(column, Text) for column in columns)).limit(EVENTS)
    with app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        rows = [tuple(row) for row in db.session.execute(chosen)]
    return [column.name for column in columns], rows


def _rate(count: Callable[[], int], target: int) -> float:
    """Rows in a second, from the first that is seen to the last."""
    deadline = time.monotonic() + PATIENCE
    first = began = 0.0
    while (now := count()) < target:
        if now and not began:
            first, began = now, time.perf_counter()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{now} of {target} rows")
        time.sleep(POLL)
    seconds = time.perf_counter() - began
    return (target - first) / seconds if began else float(target)
