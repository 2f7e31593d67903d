"""From journal to ledger by one worker process, beside a task and an INSERT for each event, and
beside the fastest that the driver can do."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

import orjson
import psycopg2
from flask import Flask
from psycopg2.extras import execute_values
from sqlalchemy import func, select

from bench.peers import per_event
from bench.result import Figure, Ratio, Results, ratios
from tests.applications import application
from tests.audit.events import make_event
from tests.processes import run_worker, started
from webapp.audit import append as ledger
from webapp.audit.event import AuditEvent, EventOrigin, dump_event
from webapp.audit.journal.service import Journal
from webapp.audit.models import AuditEventRow
from webapp.audit.relay import pipeline
from webapp.db.scopes import GlobalScope
from webapp.extensions import db
from webapp.stack.home import Stack, open_stack, running

EVENTS, TASKS = 5000, 500
LIMIT = "create table bench_ledger (like audit_events including all)"
PATIENCE = 120
OURS = "audit events, journal to ledger"


def measure_commits(home: Path, rounds: int, results: Results) -> None:
    stack = open_stack(home, durable=True)
    owner = stack.environment["DATABASE_OWNER_URL"]
    environment = {"SIGHTLINE_ENV": "qa", "SIGHTLINE_HOME": str(home), **stack.environment}
    ours, tasks, limit = [], [], []
    with running(stack), application(environment) as app:
        _run(owner, per_event.TABLE)
        _run(owner, LIMIT)
        pipeline.start(app)
        for _ in range(rounds):
            with run_worker(environment, home / "worker.log", "--concurrency", "1"):
                ours.append(_commit(app, results))
            tasks.append(_insert_by_tasks(stack, environment, home, results))
            limit.append(_insert_by_values(owner))
        pipeline.stop(app, 5)
    results.ratios.append(Ratio(OURS, "a task, an INSERT each", ratios(ours, tasks), 8))
    results.ratios.append(Ratio(OURS, "execute_values of its rows", ratios(ours, limit), 0.25))
    results.figures.append(Figure(OURS, median(ours), "/s", "one worker process"))


def _commit(app: Flask, results: Results) -> float:
    """Leave a file as a dead process would, and count what comes of it."""
    settings = app.extensions["settings"]
    journal = Journal(settings.journal_dir, settings.audit_mac_key.encode(), 2**30)
    before = _committed(app)
    events = [make_event() for _ in range(EVENTS)]
    for start in range(0, EVENTS, 500):
        journal.finalize(events[start : start + 500], PATIENCE)
    journal.close(PATIENCE)
    rate = _rate(lambda: _committed(app) - before, EVENTS)
    results.expect(_committed(app) == before + EVENTS, f"{OURS}: not each event once")
    return rate


def _committed(app: Flask) -> int:
    with app.app_context(), db.session.scoped(GlobalScope(access_id=uuid4())):
        return db.session.scalars(select(func.count()).select_from(AuditEventRow)).one()


def _insert_by_tasks(
    stack: Stack, environment: dict[str, str], home: Path, results: Results
) -> float:
    owner = stack.environment["DATABASE_OWNER_URL"]
    _run(owner, "truncate bench_events")
    per_event.celery.conf.update(broker_url=stack.redis.url)
    for row in _rows(TASKS):
        per_event.celery.send_task(per_event.TASK, args=row, queue=per_event.QUEUE)
    command = ["celery", "--quiet", "-A", "bench.peers.per_event", "worker"]
    options = ["--queues", per_event.QUEUE, "--concurrency", "1", "--without-gossip"]
    variables = {**environment, "BENCH_DATABASE_URL": owner}
    with started([*command, *options], variables, home / "peer.log"):
        rate = _rate(lambda: _count(owner), TASKS)
    results.expect(_count(owner) == TASKS, "a task each: not each event once")
    return rate


def _insert_by_values(owner: str) -> float:
    """The limit: the ledger's own rows, with its indexes, and nothing to open or to ask first."""
    _run(owner, "truncate bench_ledger")
    rows = [_ledger_row() for _ in range(EVENTS)]
    columns = ", ".join(rows[0])
    connection = psycopg2.connect(owner)
    began = time.perf_counter()
    with connection, connection.cursor() as cursor:
        statement = f"insert into bench_ledger ({columns}) values %s"  # noqa: S608 - constants
        execute_values(cursor, statement, [tuple(row.values()) for row in rows], None, 500)
    seconds = time.perf_counter() - began
    connection.close()
    return EVENTS / seconds


def _ledger_row() -> dict[str, object]:
    event = _numbered(make_event())
    row = {name: str(v) if isinstance(v, UUID) else v for name, v in ledger._row(event).items()}
    return row | {"excluded_tenant_ids": "{}", "event": dump_event(event).decode()}


def _rows(count: int) -> list[tuple[str, ...]]:
    return [_row(_numbered(make_event())) for _ in range(count)]


def _numbered(event: AuditEvent) -> AuditEvent:
    return replace(event, origin=EventOrigin(uuid4(), 1))


def _row(event: AuditEvent) -> tuple[str, ...]:
    data = dump_event(event)
    occurred_at = orjson.loads(data)["occurred_at"]
    return (
        str(event.id),
        occurred_at,
        event.actor.email,
        event.surface,
        event.request.id,
        data.decode(),
    )


def _rate(count: Callable[[], int], target: int) -> float:
    """Rows a second, from the first that is seen to the last."""
    deadline = time.monotonic() + PATIENCE
    first = began = 0.0
    while (now := count()) < target:
        if now and not began:
            first, began = now, time.perf_counter()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{now} of {target} rows")
        time.sleep(0.005)
    seconds = time.perf_counter() - began
    return (target - first) / seconds if began else float(target)


def _count(url: str) -> int:
    [[count]] = _run(url, "select count(*) from bench_events")
    return int(count)


def _run(url: str, statement: str) -> Sequence[Sequence[int]]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else ()
    finally:
        connection.close()
