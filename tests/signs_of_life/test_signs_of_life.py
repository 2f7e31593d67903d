"""Signs of life: who has been seen at work, what says so, and what is said where nobody is."""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
from celery.beat import ScheduleEntry
from flask import Flask
from sqlalchemy import text

from tests.applications import application, application_of
from tests.audit.ledgers import owner_connection
from tests.audit.receipts import wait_for
from tests.processes import PATIENCE, command_of, run_worker, started
from tests.stacks import copied_stack
from webapp import doctor
from webapp.db.scopes import IdentityScope
from webapp.extensions import db
from webapp.signs_of_life.service import SILENT, Kind, SignOfLife, read_all
from webapp.stack.home import Stack, environment_of, running
from webapp.version import VERSION
from webapp.worker.alive import Pulse
from webapp.worker.beat import Scheduler

KINDS: tuple[Kind, ...] = ("worker", "beat")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Servers of this module's own, at which nobody else works."""
    made = copied_stack(tmp_path_factory.mktemp("stack"))
    with running(made):
        yield made


@pytest.fixture(scope="module")
def own_environment(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"SIGHTLINE_HOME": str(tmp_path_factory.mktemp("home")), **stack.environment}


@pytest.fixture(scope="module")
def own_app(own_environment: dict[str, str]) -> Iterator[Flask]:
    with application(own_environment) as made:
        yield made


@pytest.fixture(autouse=True)
def _nobody(own_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.observability.last_seen.REMEMBERED", 0)
    change(own_app, "delete from signs_of_life")


def change(app: Flask, statement: str) -> None:
    with owner_connection(app) as owner:
        owner.execute(text(statement))


def signs(app: Flask) -> list[SignOfLife]:
    with app.app_context(), db.scoped(IdentityScope()):
        return list(read_all(db.session))


def pids(app: Flask, kind: Kind) -> set[int]:
    return {sign.pid for sign in signs(app) if sign.kind == kind}


def note(app: Flask, *kinds: Kind) -> None:
    for kind in kinds:
        Pulse(app, kind).note()


def grow_old(app: Flask, seconds: float) -> None:
    with owner_connection(app) as owner:
        earlier = text("update signs_of_life set seen_at = seen_at - make_interval(secs => :age)")
        owner.execute(earlier, {"age": seconds})


def readiness(app: Flask) -> tuple[int, str, dict[str, Any]]:
    answer = app.test_client().get("/readyz")
    body = answer.get_json()
    return answer.status_code, body["status"], body["checks"]


def diagnoses(app: Flask) -> dict[str, doctor.Diagnosis]:
    with app.app_context():
        return {found.check: found for found in doctor.diagnose(app)}


def metric(app: Flask, kind: Kind) -> float | None:
    shown = app.test_client().get("/metrics").text
    found = re.search(rf"^sightline_{kind}_last_seen_seconds (\S+)$", shown, re.MULTILINE)
    return float(found[1]) if found else None


def test_installation_without_worker_and_beat_is_degraded_and_doctor_names_both(
    own_app: Flask,
) -> None:
    status, said, checks = readiness(own_app)
    assert (status, said) == (200, "degraded")
    found = diagnoses(own_app)
    for kind in KINDS:
        assert checks[kind] == {"ok": False, "detail": "none has been seen"}
        assert (found[kind].ok, found[kind].detail) == (False, "none has been seen")
        assert metric(own_app, kind) == inf


def test_installation_with_both_at_work_is_ok(own_app: Flask) -> None:
    note(own_app, *KINDS)
    status, said, checks = readiness(own_app)
    assert (status, said) == (200, "ok")
    found = diagnoses(own_app)
    for kind in KINDS:
        assert re.fullmatch(r"seen \d+ s ago", checks[kind]["detail"])
        assert found[kind].ok
        assert 0 <= (metric(own_app, kind) or inf) < inf
    assert found["one beat sends tasks"].ok
    assert found["workers have this version"].ok


@pytest.mark.parametrize("kind", KINDS)
def test_process_that_has_fallen_silent_is_not_at_work(own_app: Flask, kind: Kind) -> None:
    note(own_app, kind)
    grow_old(own_app, SILENT[kind] + 1)
    _, said, checks = readiness(own_app)
    assert said == "degraded"
    assert checks[kind]["detail"].startswith("none is at work: the last one was seen ")
    assert (metric(own_app, kind) or 0) > SILENT[kind]


def test_doctor_names_a_second_beat_and_a_worker_of_another_version(own_app: Flask) -> None:
    note(own_app, *KINDS)
    change(
        own_app,
        "insert into signs_of_life select kind, 'other-host', 7, '0.0.9', seen_at"
        " from signs_of_life",
    )
    found = diagnoses(own_app)
    assert not found["one beat sends tasks"].ok
    assert found["one beat sends tasks"].detail.startswith("2 do: ")
    assert not found["workers have this version"].ok
    assert f"this is {VERSION}, and there are 0.0.9" in found["workers have this version"].detail
    assert "other-host:7" in found["workers have this version"].detail


def test_sign_that_is_an_hour_old_is_forgotten_with_the_next_one(own_app: Flask) -> None:
    note(own_app, "worker")
    grow_old(own_app, 3601)
    assert pids(own_app, "worker")
    note(own_app, "beat")
    assert not pids(own_app, "worker")


@pytest.mark.slow
def test_worker_and_beat_note_signs_remove_them_in_order_and_leave_them_when_killed(
    own_app: Flask, own_environment: dict[str, str], tmp_path: Path
) -> None:
    as_worker = environment_of("worker", own_environment)
    with (
        run_worker(own_environment, tmp_path / "worker.log") as worker,
        started(command_of("beat"), as_worker, tmp_path / "beat.log") as beat,
    ):
        wait_for(lambda: pids(own_app, "worker") == {worker.pid})
        wait_for(lambda: pids(own_app, "beat") == {beat.pid})
    wait_for(lambda: signs(own_app) == [])
    with started(command_of("beat"), as_worker, tmp_path / "beat.log") as beat:
        wait_for(lambda: pids(own_app, "beat") == {beat.pid})
        beat.kill()
        beat.wait()
    assert pids(own_app, "beat") == {beat.pid}


INTERRUPTED = """
import os, signal, sys
from celery.__main__ import main
from webapp import extensions

checked = extensions.refuse_unsafe_login_role

def interrupted(*args):
    extensions.refuse_unsafe_login_role = checked
    os.kill(os.getpid(), signal.SIGTERM)
    checked(*args)

extensions.refuse_unsafe_login_role = interrupted
sys.argv = ["celery", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
def test_beat_told_to_end_while_it_notes_its_sign_ends(
    own_app: Flask, own_environment: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", INTERRUPTED, *command_of("beat")[1:]]
    with started(command, environment_of("worker", own_environment), tmp_path / "log") as beat:
        assert beat.wait(PATIENCE) == 0
    assert signs(own_app) == []


def test_beat_that_cannot_send_gives_no_sign(
    own_app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.worker.alive.EVERY", 0)
    settings = own_app.extensions["settings"]
    gone = replace(settings, celery_broker_url="redis://127.0.0.1:1/0", journal_dir=tmp_path)
    with application_of(gone, drain=0) as cut_off:
        ages = [due_age(cut_off), due_age(own_app)]
    assert ages[0] > SILENT["beat"]
    assert ages[1] < SILENT["beat"]


def due_age(app: Flask) -> float:
    """Have a beat, seen long ago, send a task that is due; return the age of its sign then."""
    scheduler = Scheduler(app.extensions["celery"])
    note(app, "beat")
    grow_old(app, SILENT["beat"] + 1)
    scheduler.apply_entry(ScheduleEntry("due", "grants.expire", app=app.extensions["celery"]))
    return min(sign.age for sign in signs(app) if sign.kind == "beat")
