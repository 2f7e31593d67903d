"""Tests that what the ledger had is not lost where the database loses it.

The servers are real: a primary, and a standby that lags behind when it takes the primary's place.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
import requests
from flask import Flask
from sqlalchemy import NullPool, create_engine, func, select
from sqlalchemy.exc import DBAPIError

from tests.applications import application
from tests.audit.journal.journals import PATIENCE, waiting_in
from tests.audit.ledgers import ledger_session
from tests.audit.receipts import committed, receipt, second_connection, wait_for
from tests.factories import INCIDENT, Account, add_account
from tests.processes import Web, run_web, run_worker
from tests.stacks import copied_stack
from tests.standbys import Standby, run_as_superuser
from webapp import doctor
from webapp.audit.append import confirm
from webapp.audit.models import AuditEventRow
from webapp.db.limits import limits_of_statements
from webapp.db.scopes import RelayScope
from webapp.db.session import ScopedSession
from webapp.ledger.completeness import check_completeness
from webapp.observability.probes import CheckFailed
from webapp.stack.home import Stack, running

ACCESSES = 60
REPLICATION = "commits outlive the server"

pytestmark = pytest.mark.slow(seconds=6)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    home = tmp_path / "home"
    home.mkdir()
    stack = copied_stack(home)
    with running(stack):
        yield stack


@pytest.fixture
def environment(stack: Stack, tmp_path: Path) -> dict[str, str]:
    own = {"SIGHTLINE_HOME": str(tmp_path / "home"), "JOURNAL_DIR": str(tmp_path / "journal")}
    # Killed processes leave files there.
    return {**stack.environment, **own, "TMPDIR": str(tmp_path)}


@pytest.fixture
def app(environment: dict[str, str]) -> Iterator[Flask]:
    with application(environment) as app:
        yield app


@pytest.fixture
def standby(stack: Stack, tmp_path: Path, app: Flask) -> Iterator[Standby]:
    made = Standby(tmp_path / "standby", stack.postgres)
    made.start()
    yield made
    made.stop()


def access(web: Web, who: Account, times: int) -> list[UUID]:
    """Access rules so many times, and return the receipts of all answers."""
    headers = who.headers("global", INCIDENT)

    def once(_: int) -> list[UUID]:
        url = f"{web.url}/admin/api/rules"
        answer = requests.get(url, headers=headers, timeout=PATIENCE)
        assert answer.status_code == 200
        return receipt(answer)

    with ThreadPoolExecutor(4) as threads:
        return [event_id for ids in threads.map(once, range(times)) for event_id in ids]


def counts(app: Flask, ids: list[UUID]) -> tuple[int, int]:
    """How many of these events the ledger has, and how many rows those are."""
    with second_connection(app) as session:
        events = AuditEventRow.id
        query = select(func.count(events.distinct()), func.count(events)).where(events.in_(ids))
        distinct, rows = session.execute(query).one()
    return distinct, rows


def test_promoted_standby_that_lagged_gets_every_receipted_access(
    stack: Stack, standby: Standby, app: Flask, environment: dict[str, str], tmp_path: Path
) -> None:
    engineer = add_account(app, "engineer")
    journals = Path(environment["JOURNAL_DIR"])
    with (
        run_worker(environment, tmp_path / "worker.log"),
        run_web(environment, tmp_path / "web.log") as web,
    ):
        before = access(web, engineer, 5)
        committed(app, *before)
        standby.catch_up()
        standby.hold_back()
        lost = access(web, engineer, ACCESSES)
        assert len(lost) == ACCESSES
        committed(app, *lost)
        wait_for(lambda: waiting_in(journals) == [])
        stack.postgres.kill()
        standby.promote()
        assert counts(app, lost) == (0, 0)  # otherwise the standby did not lag
        committed(app, *before, *lost)
        wait_for(lambda: waiting_in(journals) == [])
        after = access(web, engineer, 5)
        committed(app, *after)
        ids = [*before, *lost, *after]
        assert counts(app, ids) == (len(ids), len(ids))
    with ledger_session(app) as session:
        found = check_completeness(session, journals)
    assert (found.missing, found.doubled, found.contradictions) == ((), (), ())


def test_doctor_says_whether_commits_wait_for_a_standby(
    stack: Stack, standby: Standby, app: Flask
) -> None:
    def said() -> str:
        with app.app_context():
            try:
                return f"yes: {doctor.CHECKS['database'][REPLICATION]()}"
            except CheckFailed as failed:
                return f"no: {failed}"

    standby.catch_up()
    assert said() == (
        "yes: no commit waits for a standby: events of 900 s come back;"
        " 1 connected, and how far behind the tables' owner may not see"
    )
    run_as_superuser(stack.postgres, "grant pg_read_all_stats to sightline_owner")
    wait_for(lambda: said().endswith("; 1 connected, 0 bytes behind"))
    names = "ANY 1 (walreceiver)"
    run_as_superuser(stack.postgres, f"alter system set synchronous_standby_names = '{names}'")
    run_as_superuser(stack.postgres, "select pg_reload_conf()")
    waits = f"yes: commits wait for {names}; 1 connected, 0 bytes behind"
    wait_for(lambda: said() == waits)
    standby.hold_back()
    alone = f"no: commits wait for {names}, and no standby is connected"
    wait_for(lambda: said() == alone)
    run_as_superuser(stack.postgres, "alter system reset synchronous_standby_names")
    run_as_superuser(stack.postgres, "select pg_reload_conf()")


def test_standby_confirms_nothing_and_a_promotion_changes_the_history(
    stack: Stack, standby: Standby, app: Flask
) -> None:
    def history(url: str) -> str:
        engine = create_engine(url, poolclass=NullPool)
        with ScopedSession(engine, limits=limits_of_statements(60)) as session:
            session.enter(RelayScope())
            return confirm(session, []).history

    here = app.extensions["settings"].database_url
    there = here.replace(f":{stack.postgres.port}/", f":{standby.port}/")
    first = history(here)
    assert history(here) == first
    with pytest.raises(DBAPIError, match="recovery"):
        history(there)
    standby.run("select pg_promote()")
    assert history(there) != first
    assert history(here) == first
