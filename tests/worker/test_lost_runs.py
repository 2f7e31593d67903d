"""A task that ends its worker: it goes aside in the end, and the others' events arrive."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from celery import Celery
from flask import Flask
from sqlalchemy import text

from tests.audit.events import make_event
from tests.audit.ledgers import owner_connection, seal
from tests.audit.receipts import committed, wait_for
from tests.processes import run_worker
from webapp.audit.event import AuditEvent
from webapp.audit.relay.pipeline import COMMIT_TASK
from webapp.audit.split import PARTS, split
from webapp.key_ring import KeyRing
from webapp.stack.home import Stack
from webapp.worker.lost_runs import MAX_LOST, LostRuns, excerpt

POISON = "ends-its-worker@example.org"

PLANTED = f'''
"""Planted: opening an event of {POISON} ends the process, as a fault in a library would."""

import os
import signal

from webapp.audit import append

load_event = append.load_journaled


def planted(data, key):
    if b"{POISON}" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    return load_event(data, key)


append.load_journaled = planted
'''
"""Imported by the worker's processes as soon as the tasks are."""


@pytest.fixture
def poisoned_worker(filled_app: Flask, filled_stack: Stack, tmp_path: Path) -> Iterator[Path]:
    """A real worker that an event of POISON kills: the only one on servers of its own."""
    assert filled_app
    (tmp_path / "planted.py").write_text(PLANTED)
    log = tmp_path / "worker.log"
    planted = {"PYTHONPATH": str(tmp_path), "SIGHTLINE_HOME": str(tmp_path / "home")}
    options = ("--include", "planted", "--concurrency", "1")
    with run_worker({**filled_stack.environment, **planted}, log, *options):
        yield log


def _send(app: Flask, *events: AuditEvent) -> None:
    celery: Celery = app.extensions["celery"]
    celery.send_task(COMMIT_TASK, args=[seal(app, *events)])


def _quarantined(app: Flask) -> list[tuple[str, bool, bytes]]:
    with owner_connection(app) as owner:
        query = text(
            "select problem, authentic, delivery from audit_quarantine where delivery like :poison"
        )
        return [
            (problem, authentic, bytes(delivery))
            for problem, authentic, delivery in owner.execute(
                query, {"poison": f"%{POISON}%".encode()}
            )
        ]


@pytest.mark.slow(seconds=30)
def test_event_that_kills_its_worker_goes_aside_and_the_others_of_its_batch_arrive(
    filled_app: Flask, poisoned_worker: Path
) -> None:
    app = filled_app
    others = [make_event() for _ in range(3 * PARTS)]
    poison = make_event(actor=replace(others[0].actor, email=POISON))
    _send(app, *others[:5], poison, *others[5:])
    committed(app, *(event.id for event in others))
    wait_for(lambda: _quarantined(app) != [])
    later = make_event()
    _send(app, later)
    committed(app, later.id)
    ((problem, authentic, delivery),) = _quarantined(app)
    assert problem == f"{COMMIT_TASK} has ended its worker {MAX_LOST + 1} times"
    assert authentic
    assert str(poison.id).encode() in delivery
    # The journal sends it again, under another id: it kills once more, and goes aside at once.
    kills = _count(poisoned_worker, "exited with 'signal 9")
    _send(app, poison)
    another = make_event()
    _send(app, another)
    committed(app, another.id)
    wait_for(lambda: _count(poisoned_worker, "parts=0") == 2)
    assert _count(poisoned_worker, "exited with 'signal 9") == kills + 1
    assert len(_quarantined(app)) == 1


def _count(log: Path, said: str) -> int:
    return log.read_text().count(said)


@pytest.fixture
def lost(app: Flask) -> LostRuns:
    settings = app.extensions["settings"]
    return LostRuns(settings.redis_url, 1.0, settings.secret_keys)


def test_task_is_given_up_after_runs_that_did_not_end(lost: LostRuns) -> None:
    args = [os.urandom(8).hex()]
    runs = [lost.noted("some.task", "an id", args) for _ in range(MAX_LOST + 2)]
    # Entered and never left, as when the process dies.
    assert [run.__enter__() for run in runs] == [*[False] * MAX_LOST, True, True]
    with lost.noted("some.task", "an id", ["others"]) as given_up:
        assert not given_up


def test_run_that_fails_is_not_one_that_ended_its_worker(lost: LostRuns) -> None:
    args = [os.urandom(8).hex()]
    given_up = []
    for _ in range(3 * MAX_LOST):
        with suppress(ConnectionError), lost.noted("some.task", "id", args) as is_given_up:
            given_up.append(is_given_up)
            raise ConnectionError
    assert given_up == [False] * 3 * MAX_LOST


def test_note_that_somebody_else_wrote_counts_nothing(app: Flask, lost: LostRuns) -> None:
    args = [os.urandom(8).hex()]
    with redis.Redis.from_url(app.extensions["settings"].redis_url) as stranger:
        for forged in (b"\xff" * 17, b"2", b"", b"\x02" + b"\x00" * 16):
            before = set(stranger.scan_iter("sightline:lost:*"))
            block = lost.noted("some.task", "id", args)
            assert not block.__enter__()
            for name in set(stranger.scan_iter("sightline:lost:*")) - before:
                stranger.set(name, forged)
            with lost.noted("some.task", "id", args) as given_up:
                assert not given_up


def test_task_runs_though_redis_does_not_answer(app: Flask) -> None:
    lost = LostRuns("redis://127.0.0.1:1/0", 0.1, KeyRing(b"secret"))
    with lost.noted("some.task", "id", ["x"]) as given_up:
        assert not given_up


def test_delivery_is_split_with_the_sets_that_each_part_names() -> None:
    digest = "315f5bdb76d078c43b8ac0064e4a0164612b1fce77c869345bfc94c75894edd3"  # of "a"
    hello = ["Hello, world!"]
    events = [
        [f"event {number} names {digest if number == 20 else ''}", "signature"]
        for number in range(40)
    ]
    parts = split([hello, *events])
    assert 1 < len(parts) <= PARTS
    assert [item for part in parts for item in part if len(item) == 2] == events
    naming = [part for part in parts if hello in part]
    assert len(naming) == 1
    assert events[20] in naming[0]
    assert split([hello, events[0]]) == split(["garbage"]) == split("garbage") == []
    assert all(len(split(part)) < len(part) + 1 for part in parts)


def test_excerpt_of_a_large_task_is_short() -> None:
    assert len(excerpt([["x" * 10**6]])) < 2**17
