"""The steps of a rotation, and gunicorn's signals, on running processes that are under load."""

import secrets
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from uuid import UUID

import psutil
import pytest
import requests
from flask import Flask
from sqlalchemy import func, select

from tests.applications import application
from tests.audit.ledgers import ledger_session
from tests.audit.receipts import committed, receipt, wait_for
from tests.factories import INCIDENT, Account, add_account
from tests.processes import PATIENCE, Web, run_web, run_worker
from tests.stacks import copied_stack
from webapp.audit.models import QuarantineRow
from webapp.stack.home import Stack, running

AUDITS = "/admin/api/audits"
THREADS = 2
PAUSE = 0.05
"""Seconds between two requests of a client, so that processes have time to start beside them."""

pytestmark = pytest.mark.slow(seconds=60)


@dataclass(frozen=True)
class Keys:
    """The files with the two keys, which processes read when they start."""

    signing: Path
    accepted: Path

    def take(self, signing: str, accepted: str) -> None:
        self.signing.write_text(signing)
        self.accepted.write_text(accepted)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "SECRET_KEY": "",
            "SECRET_KEY_FILE": str(self.signing),
            "SECRET_KEY_ACCEPTED_FILE": str(self.accepted),
        }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = copied_stack(tmp_path_factory.mktemp("home"))
    with running(stack):
        yield stack


@pytest.fixture(scope="module")
def app(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    own = {"JOURNAL_DIR": str(tmp_path_factory.mktemp("journal"))}
    with application({**stack.environment, **own}) as app:
        yield app


@pytest.fixture(scope="module")
def auditor(app: Flask) -> Account:
    return add_account(app, "auditor")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "signing", tmp_path / "accepted")


@pytest.fixture
def environment(stack: Stack, keys: Keys, tmp_path: Path) -> dict[str, str]:
    own = {
        "SIGHTLINE_HOME": str(tmp_path),
        "JOURNAL_DIR": str(tmp_path / "journal"),
        "WEB_CONCURRENCY": "1",
        "TMPDIR": str(tmp_path),
    }
    return {**stack.environment, **own, **keys.environment}


@dataclass
class Load:
    """Clients that access all the time, each request on a connection of its own."""

    url: str
    headers: dict[str, str]
    statuses: list[int] = field(default_factory=list)
    receipts: list[UUID] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def run(self, ended: Event) -> None:
        while not ended.is_set():
            try:
                answer = requests.get(f"{self.url}?limit=1", headers=self.headers, timeout=PATIENCE)
            except requests.RequestException as error:
                self.problems.append(repr(error))
                continue
            self.statuses.append(answer.status_code)
            self.receipts += receipt(answer)
            ended.wait(PAUSE)

    def go_on(self, requests: int = 10) -> None:
        """Wait until so many more were answered."""
        enough = len(self.statuses) + requests
        wait_for(lambda: len(self.statuses) >= enough or bool(self.problems))

    def assert_unharmed(self) -> None:
        assert self.problems == []
        assert set(self.statuses) == {200}


@contextmanager
def under_load(web: Web, who: Account) -> Iterator[Load]:
    load, ended = Load(web.url + AUDITS, who.headers("global", INCIDENT)), Event()
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in range(THREADS):
            threads.submit(load.run, ended)
        try:
            yield load
        finally:
            ended.set()


def replaced_by_usr2(master: psutil.Process) -> psutil.Process:
    """Start a second gunicorn on the same socket, and end the former one once it has processes."""
    before = set(master.children())

    def second() -> psutil.Process | None:
        return next((new for new in set(master.children()) - before if new.children()), None)

    master.send_signal(signal.SIGUSR2)
    wait_for(lambda: second() is not None)
    found = second()
    assert found is not None
    master.terminate()
    wait_for(lambda: has_ended(master))
    return found


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def gunicorn_of(web: Web) -> Iterator[list[psutil.Process]]:
    """The gunicorns that took each other's place, the last of which is ended here."""
    masters = [psutil.Process(web.process.pid)]
    try:
        yield masters
    finally:
        if not has_ended(masters[-1]):
            masters[-1].terminate()
            wait_for(lambda: has_ended(masters[-1]))


def cursor_of(web: Web, who: Account) -> str:
    headers = who.headers("global", INCIDENT)
    answer = requests.get(web.url + AUDITS, headers=headers, params={"limit": 1}, timeout=PATIENCE)
    cursor: str = answer.json()["next_cursor"]
    return cursor


def status_of(web: Web, who: Account, cursor: str) -> int:
    headers = who.headers("global", INCIDENT)
    url = f"{web.url}{AUDITS}?limit=1&cursor={cursor}"
    return requests.get(url, headers=headers, timeout=PATIENCE).status_code


def test_secret_key_is_rotated_step_by_step_without_a_refused_request(
    app: Flask, auditor: Account, keys: Keys, environment: dict[str, str], tmp_path: Path
) -> None:
    """The cursors of each step show by which key it signs: they are good one step later, and not
    once that key is dropped."""
    old, new, *spare = (secrets.token_urlsafe(48) for _ in range(4))
    steps = [(old, spare[0]), (old, new), (new, old), (new, spare[1])]
    keys.take(*steps[0])
    log = tmp_path / "web.log"
    with (
        run_web(environment, log) as web,
        gunicorn_of(web) as masters,
        under_load(web, auditor) as load,
    ):
        cursors: list[str] = []
        for number, step in enumerate(steps):
            if number:
                keys.take(*step)
                masters.append(replaced_by_usr2(masters[-1]))
                load.go_on()
                assert status_of(web, auditor, cursors[-1]) == 200
            with run_worker(environment, tmp_path / "worker.log"):
                load.go_on()
                committed(app, *load.receipts[-5:])
            cursors.append(cursor_of(web, auditor))
        assert [status_of(web, auditor, cursor) for cursor in cursors] == [422, 422, 200, 200]
        load.assert_unharmed()
        with run_worker(environment, tmp_path / "worker.log"):
            committed(app, *load.receipts)
    with ledger_session(app) as session:
        assert session.scalars(select(func.count(QuarantineRow.digest))).one() == 0
    assert "task_refused" not in (tmp_path / "worker.log").read_text()


def test_sighup_replaces_the_processes_without_a_failed_request(
    app: Flask, auditor: Account, keys: Keys, environment: dict[str, str], tmp_path: Path
) -> None:
    keys.take(*(secrets.token_urlsafe(48) for _ in range(2)))
    with run_web(environment, tmp_path / "web.log") as web, under_load(web, auditor) as load:
        master = psutil.Process(web.process.pid)
        for _ in range(2):
            load.go_on()
            before = set(master.children())
            master.send_signal(signal.SIGHUP)
            wait_for(lambda: bool(master.children()) and before.isdisjoint(master.children()))  # noqa: B023 - it is called at once
        load.go_on()
        load.assert_unharmed()
        with run_worker(environment, tmp_path / "worker.log"):
            committed(app, *load.receipts)
    assert (tmp_path / "web.log").read_text().count("reloaded_without_code_and_settings") == 2
