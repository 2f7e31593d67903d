"""A web process that is killed loses no event: what began is on record as interrupted, and what was
answered as it was answered. One that ends in order leaves nothing, or what others can take."""

import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from flask import Flask

from tests.audit.journal.journals import MAX_BYTES, said
from tests.audit.receipts import (
    committed,
    committed_of_request,
    events_of_request,
    receipt,
    wait_for,
)
from tests.factories import INCIDENT, Account
from tests.processes import Web, run_server
from webapp.audit.journal.file import adopt, list_files
from webapp.stack.servers import free_port

pytestmark = pytest.mark.slow

SERVER = ["gunicorn", "tests.audit.serving:app"]
TIMEOUT = 180


@pytest.fixture
def journal_dir(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@contextmanager
def serving(environment: Mapping[str, str], journal_dir: Path, **changes: str) -> Iterator[Web]:
    own = journal_dir.parent
    # What a killed process leaves in its temporary directory goes with the test's.
    places = {"JOURNAL_DIR": str(journal_dir), "TMPDIR": str(own)}
    settings = {**environment, **places, "WEB_CONCURRENCY": "2", **changes}
    with run_server(SERVER, "/healthz", settings, own / "web.log") as web:
        yield web


@pytest.fixture
def web(worker: None, environment: Mapping[str, str], journal_dir: Path) -> Iterator[Web]:
    with serving(environment, journal_dir) as running:
        yield running


def headers(who: Account, request_id: str) -> dict[str, str]:
    return {**who.headers("global", INCIDENT), "X-Request-ID": request_id}


def begin_to_access(web: Web, who: Account, request_id: str, directory: Path) -> int:
    """Return the process that accesses, once its journal says so."""
    told = directory.parent / request_id

    def ask() -> None:
        with pytest.raises(requests.ConnectionError):
            requests.get(
                f"{web.url}/admin/accesses/waits",
                params={"file": str(told)},
                headers=headers(who, request_id),
                timeout=TIMEOUT,
            )

    threads = ThreadPoolExecutor(1)
    threads.submit(ask)
    threads.shutdown(wait=False)
    wait_for(lambda: request_id in {event.request.id for event in said(directory)})
    return int(told.read_text())


def access(web: Web, who: Account, request_id: str) -> requests.Response:
    answer = requests.get(
        f"{web.url}/admin/accesses/process", headers=headers(who, request_id), timeout=TIMEOUT
    )
    assert answer.status_code == 200
    return answer


def test_what_was_being_accessed_at_is_interrupted(
    app: Flask, web: Web, engineer: Account, journal_dir: Path
) -> None:
    """Another process finds it."""
    request_id = uuid4().hex
    os.kill(begin_to_access(web, engineer, request_id, journal_dir), signal.SIGKILL)
    (event,) = committed_of_request(app, request_id)
    assert (event["surface"], event["outcome"]) == ("accesses.waits", "interrupted")
    assert event["http_status"] is None


def test_what_was_answered_is_served(
    app: Flask, web: Web, engineer: Account, journal_dir: Path
) -> None:
    """Once, though nothing happened between the answer and the end."""
    answers = []
    for _ in range(4):
        answer = access(web, engineer, uuid4().hex)
        os.kill(int(answer.text), signal.SIGKILL)
        answers.append(answer)
    events = committed(app, *(event_id for answer in answers for event_id in receipt(answer)))
    assert [event["outcome"] for event in events] == ["served"] * 4
    wait_for(lambda: said(journal_dir) == [])
    for event in events:
        assert events_of_request(app, event["request"]["id"]) == [event]


def test_a_process_with_nothing_to_do_brings_what_others_left(
    app: Flask, worker: None, environment: Mapping[str, str], engineer: Account, journal_dir: Path
) -> None:
    accessed, accessing = uuid4().hex, uuid4().hex
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with serving(environment, journal_dir, CELERY_BROKER_URL=nowhere) as web:
        access(web, engineer, accessed)
        begin_to_access(web, engineer, accessing, journal_dir)
        os.killpg(web.process.pid, signal.SIGKILL)
        web.process.wait()
    assert len(said(journal_dir)) == 2
    with serving(environment, journal_dir):
        (answered,) = committed_of_request(app, accessed)
        (interrupted,) = committed_of_request(app, accessing)
        wait_for(lambda: list(journal_dir.iterdir()) == [])
    assert (answered["outcome"], interrupted["outcome"]) == ("served", "interrupted")


def test_the_end_in_order_leaves_nothing(
    app: Flask, worker: None, environment: Mapping[str, str], engineer: Account, journal_dir: Path
) -> None:
    request_id = uuid4().hex
    with serving(environment, journal_dir) as web:
        access(web, engineer, request_id)
    assert web.process.returncode == 0
    assert list(journal_dir.iterdir()) == []
    assert len(events_of_request(app, request_id)) == 1


def test_the_end_in_order_without_a_broker_leaves_it_to_others(
    app: Flask, worker: None, environment: Mapping[str, str], engineer: Account, journal_dir: Path
) -> None:
    request_id = uuid4().hex
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with serving(environment, journal_dir, CELERY_BROKER_URL=nowhere) as web:
        access(web, engineer, request_id)
    assert web.process.returncode == 0
    (path,) = list_files(journal_dir)
    adopt(path, MAX_BYTES).close()
    with serving(environment, journal_dir):
        (event,) = committed_of_request(app, request_id)
    assert event["outcome"] == "served"
