"""Tests that a web process which is killed or ends in order loses no event.

Of a killed process, accesses that had begun are recorded as interrupted, and answered ones as they
were answered. A process that ends in order leaves no file, or one that others can adopt.
"""

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

from tests.audit.journal.journals import MAX_BYTES, events_in, left_in
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

pytestmark = pytest.mark.slow(seconds=7)

SERVER = ["gunicorn", "tests.audit.serving:app"]
TIMEOUT = 180


@pytest.fixture
def journal_dir(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@contextmanager
def serving(environment: Mapping[str, str], journal_dir: Path, **changes: str) -> Iterator[Web]:
    own = journal_dir.parent
    # The test's directory also holds what a killed process leaves in its temporary directory.
    places = {"JOURNAL_DIR": str(journal_dir), "JOURNAL_KEEP": "0", "TMPDIR": str(own)}
    settings = {**environment, **places, "WEB_CONCURRENCY": "2", **changes}
    with run_server(SERVER, "/healthz", settings, own / "web.log") as web:
        yield web


@pytest.fixture
def web(worker: None, environment: Mapping[str, str], journal_dir: Path) -> Iterator[Web]:
    with serving(environment, journal_dir) as running:
        yield running


def headers(who: Account, request_id: str) -> dict[str, str]:
    return {**who.headers("global", INCIDENT), "X-Request-ID": request_id}


def start_access(web: Web, who: Account, request_id: str, directory: Path) -> int:
    """Start an access that never ends; return its process once the journal has the beginning."""
    process_file = directory.parent / request_id

    def ask() -> None:
        with pytest.raises(requests.ConnectionError):
            requests.get(
                f"{web.url}/admin/accesses/waits",
                params={"file": str(process_file)},
                headers=headers(who, request_id),
                timeout=TIMEOUT,
            )

    threads = ThreadPoolExecutor(1)
    threads.submit(ask)
    threads.shutdown(wait=False)
    wait_for(lambda: request_id in {e.request.x_request_id for e in events_in(directory)})
    return int(process_file.read_text())


def access(web: Web, who: Account, request_id: str) -> requests.Response:
    answer = requests.get(
        f"{web.url}/admin/accesses/process", headers=headers(who, request_id), timeout=TIMEOUT
    )
    assert answer.status_code == 200
    return answer


def test_access_of_a_killed_process_is_recorded_as_interrupted(
    app: Flask, web: Web, engineer: Account, journal_dir: Path
) -> None:
    """Another process adopts the file."""
    request_id = uuid4().hex
    os.kill(start_access(web, engineer, request_id, journal_dir), signal.SIGKILL)
    (event,) = committed_of_request(app, request_id)
    assert (event["surface"], event["outcome"]) == ("accesses.waits", "interrupted")
    assert event["http_status"] is None


def test_answered_access_of_a_killed_process_is_recorded_once_as_served(
    app: Flask, web: Web, engineer: Account, journal_dir: Path
) -> None:
    """The process is killed right after its answer."""
    answers = []
    for _ in range(4):
        answer = access(web, engineer, uuid4().hex)
        os.kill(int(answer.text), signal.SIGKILL)
        answers.append(answer)
    events = committed(app, *(event_id for answer in answers for event_id in receipt(answer)))
    assert [event["outcome"] for event in events] == ["served"] * 4
    wait_for(lambda: events_in(journal_dir) == [])
    for event in events:
        assert events_of_request(app, event["request"]["id"]) == [event]


def test_idle_process_relays_what_dead_processes_left(
    app: Flask, worker: None, environment: Mapping[str, str], engineer: Account, journal_dir: Path
) -> None:
    answered_request, open_request = uuid4().hex, uuid4().hex
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with serving(environment, journal_dir, CELERY_BROKER_URL=nowhere) as web:
        access(web, engineer, answered_request)
        start_access(web, engineer, open_request, journal_dir)
        os.killpg(web.process.pid, signal.SIGKILL)
        web.process.wait()
    assert len(events_in(journal_dir)) == 2
    with serving(environment, journal_dir):
        (answered,) = committed_of_request(app, answered_request)
        (interrupted,) = committed_of_request(app, open_request)
        wait_for(lambda: left_in(journal_dir) == [])
    assert (answered["outcome"], interrupted["outcome"]) == ("served", "interrupted")


def test_orderly_end_leaves_no_journal_file(
    app: Flask, worker: None, environment: Mapping[str, str], engineer: Account, journal_dir: Path
) -> None:
    request_id = uuid4().hex
    with serving(environment, journal_dir) as web:
        access(web, engineer, request_id)
    assert web.process.returncode == 0
    assert left_in(journal_dir) == []
    assert len(events_of_request(app, request_id)) == 1


def test_orderly_end_without_a_broker_leaves_its_file_to_others(
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
