"""A PostgreSQL that accepts and does not answer: each wait for it ends."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool

from tests.applications import application_of
from tests.audit.products import Product, own_product
from tests.audit.receipts import committed, receipt, wait_for
from tests.factories import add_account
from tests.processes import PATIENCE, run_web, run_worker
from webapp.boot import check_database
from webapp.db import deadline
from webapp.db.deadline import DatabaseSilent, long_statements
from webapp.db.scopes import LedgerScope
from webapp.extensions import db
from webapp.http.state import current_state

pytestmark = pytest.mark.slow(seconds=2)

LIMIT = 1.0
RULES = "/admin/api/rules"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with own_product(tmp_path_factory.mktemp("deadline")) as product:
        yield product


@pytest.fixture
def app(product: Product) -> Iterator[Flask]:
    settings = replace(product.app.extensions["settings"], database_timeout=LIMIT)
    with application_of(settings) as app:
        yield app


@contextmanager
def stopped(product: Product) -> Iterator[None]:
    """Stop all of PostgreSQL's processes: the kernel accepts for them, and nobody answers."""
    assert product.stack.postgres.process is not None
    parent = psutil.Process(product.stack.postgres.process.pid)
    processes = [parent, *parent.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # the server of a connection that was closed
            process.suspend()
    try:
        yield
    finally:
        for process in reversed(processes):
            with suppress(psutil.NoSuchProcess):
                process.resume()


def pool(app: Flask) -> QueuePool:
    with app.app_context():
        made = db.engine.pool
    assert isinstance(made, QueuePool)
    return made


def unknown() -> dict[str, str]:
    return {"Authorization": f"Bearer slt_{secrets.token_urlsafe(32)}"}


def ask(app: Flask) -> tuple[int, Any]:
    """Ask with a token that nobody has and that is new each time: only the database knows it."""
    answer = app.test_client().get(RULES, headers=unknown())
    return answer.status_code, answer.get_json().get("code")


UNAVAILABLE, REFUSED = (503, "database_unavailable"), (401, "unauthenticated")


@pytest.mark.parametrize("known", [True, False], ids=["connected", "not connected"])
def test_request_is_answered_though_the_database_is_silent(
    product: Product, app: Flask, *, known: bool
) -> None:
    assert ask(app) == REFUSED
    if not known:
        pool(app).dispose()
    with stopped(product):
        for _ in range(20):  # more than the pool has connections
            assert ask(app) == UNAVAILABLE
        assert pool(app).checkedout() == 0
    while (found := ask(app)) == UNAVAILABLE:
        pass
    assert found == REFUSED


def test_readiness_says_that_the_database_is_silent(product: Product, app: Flask) -> None:
    client = app.test_client()
    with stopped(product):
        said = set()
        while "the database does not answer: it has just not answered" not in said:
            answer = client.get("/readyz")
            assert answer.status_code == 503
            said.add(answer.get_json()["checks"]["database"]["detail"])
    while client.get("/readyz").status_code != 200:
        pass


def test_readiness_believes_a_silent_database_for_seconds_only(
    product: Product, app: Flask
) -> None:
    client = app.test_client()

    def is_well() -> bool:
        return bool(client.get("/readyz").get_json()["checks"]["database"]["ok"])

    assert is_well()
    with stopped(product):
        wait_for(lambda: not is_well())
    wait_for(is_well)


def test_answer_on_one_connection_lets_others_connect_again(app: Flask) -> None:
    with app.app_context(), db.engine.connect() as well, db.engine.connect() as stopped_one:
        backend = psutil.Process(stopped_one.scalar(text("select pg_backend_pid()")))
        backend.suspend()
        try:
            with pytest.raises(OperationalError):
                stopped_one.execute(text("select 1"))
        finally:
            backend.resume()
        well.execute(text("select 1"))
        with db.engine.connect() as another:
            assert another.scalar(text("select 1")) == 1


def test_process_does_not_pass_a_silence_on_to_those_it_forks(product: Product, app: Flask) -> None:
    with stopped(product):
        check_database(app, "web")
    with app.app_context():
        db.reach()


def test_one_at_a_time_tries_to_end_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "RETRY", 0)
    silence = deadline.Silence()
    silence.begin()
    silence.refuse()
    with pytest.raises(DatabaseSilent):
        silence.refuse()
    silence.end()
    silence.refuse()


def test_old_silence_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "RETRY", 0)
    monkeypatch.setattr(deadline, "FORGOTTEN", 0)
    silence = deadline.Silence()
    silence.begin()
    for _ in range(2):
        silence.refuse()


def test_statement_ends_though_the_database_is_silent(product: Product, app: Flask) -> None:
    with app.app_context(), db.scoped(LedgerScope()):
        db.session.execute(text("select 1"))
        with stopped(product), pytest.raises(OperationalError) as caught:
            db.session.execute(text("select 1"))
        db.session.rollback()
    assert isinstance(caught.value.orig, DatabaseSilent)
    assert pool(app).checkedout() == 0


def test_commit_ends_though_the_database_is_silent(product: Product, app: Flask) -> None:
    with app.app_context(), db.scoped(LedgerScope()):
        db.session.execute(text("select 1"))
        with stopped(product), pytest.raises(OperationalError) as caught:
            db.session.commit()
        db.session.rollback()
    assert isinstance(caught.value.orig, DatabaseSilent)
    assert pool(app).checkedout() == 0


def test_rollback_ends_though_the_database_is_silent(product: Product, app: Flask) -> None:
    with app.app_context(), db.scoped(LedgerScope()):
        db.session.execute(text("select 1"))
        with stopped(product), pytest.raises(OperationalError) as caught:
            db.session.rollback()
    assert isinstance(caught.value.orig, DatabaseSilent)
    assert pool(app).checkedout() == 0


def test_end_of_request_is_no_error_though_the_database_is_silent(
    product: Product, app: Flask
) -> None:
    """The answer is made already, and the transaction has nothing to keep."""
    context = app.app_context()
    context.push()
    current_state().scope = LedgerScope()
    db.session.execute(text("select 1"))
    with stopped(product):
        context.pop()
    assert pool(app).checkedout() == 0


def test_slow_statement_is_ended_by_the_database_itself(app: Flask) -> None:
    with app.app_context(), db.scoped(LedgerScope()):
        with pytest.raises(OperationalError, match="statement timeout"):
            db.session.execute(text(f"select pg_sleep({LIMIT * 10})"))
        db.session.rollback()
        assert db.session.scalar(text("select 1")) == 1


def test_statement_that_may_take_long_is_not_ended(app: Flask) -> None:
    with app.app_context(), db.scoped(LedgerScope()):
        with long_statements(db.session):
            db.session.execute(text(f"select pg_sleep({LIMIT * 3})"))
        db.session.rollback()
        with pytest.raises(OperationalError, match="statement timeout"):
            db.session.execute(text(f"select pg_sleep({LIMIT * 10})"))
        db.session.rollback()


def test_real_processes_answer_and_record_exactly_across_a_silence(
    product: Product, tmp_path: Path
) -> None:
    auditor = add_account(product.app, "auditor")
    headers = auditor.headers("global", 'incident;ticket="INC-7"')
    environment = {**product.environment, "DATABASE_TIMEOUT": str(LIMIT)}
    with (
        run_worker(environment, tmp_path / "worker.log"),
        run_web(environment, tmp_path / "web.log") as web,
    ):

        def look(limit: int) -> requests.Response:
            return requests.get(
                web.url + RULES, params={"limit": limit}, headers=headers, timeout=PATIENCE
            )

        answers = [look(1)]
        with stopped(product):
            answers += [look(2) for _ in range(20)]
            answers.append(requests.get(web.url + RULES, headers=unknown(), timeout=PATIENCE))
            assert answers[-1].status_code == 503
            assert answers[-1].json()["code"] == "database_unavailable"
            assert "Retry-After" in answers[-1].headers
        while (last := look(3)).status_code != 200:
            answers.append(last)
        answers.append(last)
        receipts = [each for answer in answers for each in receipt(answer)]
        events = committed(product.app, *receipts)
    assert len(set(receipts)) == len(receipts) == len(events)
