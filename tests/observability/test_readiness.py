"""The journal's part of `/readyz`: whether this process can record the next access."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.applications import application_of
from tests.audit.events import make_event
from tests.audit.journal.journals import forgetting
from webapp.audit.event import EventRequest
from webapp.audit.journal import file as journal_file
from webapp.audit.journal.reader import Row
from webapp.audit.relay import pipeline
from webapp.stack.servers import free_port

PATIENCE = 180


@pytest.fixture
def journaling(app: Flask, tmp_path: Path) -> Iterator[Flask]:
    """An application whose events stay in its journal, since there is no broker."""
    settings = replace(
        app.extensions["settings"],
        celery_broker_url=f"redis://127.0.0.1:{free_port()}/0",
        journal_dir=tmp_path / "host" / "journal",
        journal_max_mb=1,
    )
    with application_of(settings, drain=0) as made:
        yield made


@pytest.fixture
def client(journaling: Flask) -> FlaskClient:
    return journaling.test_client()


def state(client: FlaskClient) -> Any:
    """The journal's part of the answer of `/readyz`."""
    answer = client.get("/readyz")
    checks = answer.get_json()["checks"]
    assert (answer.status_code == 200) == checks["journal"]["ok"]  # the rest may be away
    return checks["journal"]


def finalize(app: Flask, size: int) -> None:
    """Record one event of about this many bytes."""
    request = EventRequest(id=uuid4().hex, ip=None, method="GET", path="/", user_agent="x" * size)
    with app.app_context():
        pipeline.current_journal().finalize([make_event(request=request)], PATIENCE)


def directory(app: Flask) -> Path:
    path: Path = app.extensions["settings"].journal_dir
    return path


def test_journal_without_directory_is_ready_before_the_first_event(
    journaling: Flask, client: FlaskClient
) -> None:
    assert state(client) == {"ok": True, "detail": "ok"}
    assert not directory(journaling).parent.exists()


def test_journal_in_use_is_ready(journaling: Flask, client: FlaskClient) -> None:
    finalize(journaling, 10)
    assert state(client)["ok"]
    assert list(directory(journaling).glob(".probe*")) == []


@pytest.mark.parametrize("made", [False, True], ids=["missing", "there"])
def test_journal_in_unwritable_directory_is_not_ready(
    journaling: Flask, client: FlaskClient, tmp_path: Path, *, made: bool
) -> None:
    """A file stands in place of the directory, which stops root, too."""
    place = directory(journaling) if made else directory(journaling).parent
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    found = state(client)
    assert not found["ok"]
    assert found["detail"] in (
        "the journal cannot be written",
        "the journal's directory is not there and cannot be made",
    )
    assert str(tmp_path) not in client.get("/readyz").text


def test_removed_journal_is_not_ready(journaling: Flask, client: FlaskClient) -> None:
    """Events written to a removed journal would never be found."""
    finalize(journaling, 10)
    for path in directory(journaling).iterdir():
        path.unlink()
    found = state(client)
    assert found == {"ok": False, "detail": "the journal of this process is gone or damaged"}


def test_nearly_full_journal_is_not_ready(journaling: Flask, client: FlaskClient) -> None:
    """The journal reports before it is full and accesses are refused."""
    for _ in range(16):
        finalize(journaling, 50_000)
    assert state(client)["ok"]
    for _ in range(3):
        finalize(journaling, 50_000)
    found = state(client)
    assert not found["ok"]
    assert found["detail"].startswith("the journal of this process is 9")
    assert found["detail"].endswith("% full")


def test_forgotten_events_free_space_in_the_journal_file(tmp_path: Path) -> None:
    file = journal_file.create(tmp_path, uuid4(), 2**20)
    file.write(
        [Row(n, str(uuid4()), True, b"x" * 50_000, "signature") for n in range(10)], durable=False
    )
    assert file.used_bytes() > 500_000
    file.note_now(forgetting(range(9)))
    assert 50_000 < file.used_bytes() < 100_000
    file.close()
