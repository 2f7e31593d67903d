"""Lists that are read from a replica: a real one, that lags, is promoted, and is gone."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
from flask import Flask
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from werkzeug.test import TestResponse

from tests.applications import application, application_of
from tests.audit.events import make_event
from tests.audit.ledgers import append_events
from tests.audit.receipts import wait_for
from tests.factories import INCIDENT, Account, add_account, add_tenant
from tests.stacks import copied_stack
from tests.standbys import Standby
from webapp import doctor
from webapp.audit.event import EventScope
from webapp.audit.models import AuditEventRow
from webapp.db import replica
from webapp.db.scopes import LedgerScope, TenantScope
from webapp.db.session import ScopedSession, UnscopedSession
from webapp.extensions import Read, db
from webapp.observability.probes import CheckFailed
from webapp.scope.answers import BEHIND_HEADER
from webapp.stack.home import Stack, running

AUDITS = "/admin/api/audits"
FAR = 3600.0

pytestmark = pytest.mark.slow(seconds=30)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = copied_stack(tmp_path_factory.mktemp("home"))
    with running(stack):
        yield stack


@pytest.fixture(scope="module")
def primary(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """An application that knows of no replica."""
    own = {"JOURNAL_DIR": str(tmp_path_factory.mktemp("journal"))}
    with application({**stack.environment, **own}) as app:
        yield app


@pytest.fixture(scope="module")
def auditor(primary: Flask) -> Account:
    return add_account(primary, "auditor")


@pytest.fixture
def standby(
    stack: Stack, primary: Flask, auditor: Account, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Standby]:
    made = Standby(tmp_path_factory.mktemp("standby") / "data", stack.postgres)
    made.start()
    made.catch_up()
    yield made
    made.stop()


def reading_from(primary: Flask, port: int, lag: float = FAR) -> AbstractContextManager[Flask]:
    settings = primary.extensions["settings"]
    there = settings.database_url.replace(f":{_port(settings.database_url)}/", f":{port}/")
    named = replace(settings, database_replica_url=there, database_replica_lag=lag)
    return application_of(named, drain=0)


def _port(url: str) -> str:
    return url.rpartition(":")[2].partition("/")[0]


def audits(app: Flask, who: Account, **headers: str) -> TestResponse:
    asking = {**who.headers("global", INCIDENT), **headers}
    answer = app.test_client().get(AUDITS, headers=asking)
    assert answer.status_code in (200, 304)
    return answer


def shown(answer: TestResponse) -> set[str]:
    return {item["id"] for item in answer.get_json()["items"]}


def append(primary: Flask) -> str:
    """Commit an event in the primary, and return its id."""
    event = make_event()
    append_events(primary, event)
    return str(event.id)


def said(app: Flask) -> str:
    """What `flask doctor` says of the replica."""
    with app.app_context():
        return doctor.CHECKS["host"]["the replica is read"]()


def test_list_is_read_from_the_replica_and_says_how_far_that_is_behind(
    primary: Flask, auditor: Account, standby: Standby
) -> None:
    before = append(primary)
    standby.catch_up()
    with reading_from(primary, standby.port) as app:
        answer = audits(app, auditor)
        assert (answer.headers[BEHIND_HEADER], answer.get_json()["behind"]) == ("0", 0)
        assert before in shown(answer)
        standby.hold_back()
        missing = append(primary)
        assert missing not in shown(audits(app, auditor))
        wait_for(lambda: audits(app, auditor).get_json()["behind"] >= 2)
        answer = audits(app, auditor)
        assert int(answer.headers[BEHIND_HEADER]) == answer.get_json()["behind"]
        assert missing not in shown(answer)
        assert re.fullmatch(r"\d+ s behind", said(app))
    answer = audits(primary, auditor)
    assert missing in shown(answer)
    assert BEHIND_HEADER not in answer.headers
    assert "behind" not in answer.get_json()


def test_idle_replica_is_not_behind(primary: Flask, auditor: Account, standby: Standby) -> None:
    """While nothing is committed, the last transaction says nothing of how much is missing."""
    old = "select clock_timestamp() - pg_last_xact_replay_timestamp() > interval '2 s'"
    append(primary)
    standby.catch_up()
    wait_for(lambda: standby.run(old) == [(True,)])
    with reading_from(primary, standby.port, lag=1) as app:
        assert audits(app, auditor).get_json()["behind"] == 0
        assert said(app) == "less than a second behind"


def test_answer_is_the_same_from_both_but_for_what_it_lacks(
    primary: Flask, auditor: Account, standby: Standby
) -> None:
    append(primary)
    standby.catch_up()
    with reading_from(primary, standby.port) as app:
        from_replica, from_primary = audits(app, auditor), audits(primary, auditor)
        body = from_replica.get_json()
        assert body.pop("behind") == 0
        assert body == from_primary.get_json()
        again = audits(app, auditor, **{"If-None-Match": from_replica.headers["ETag"]})
        assert (again.status_code, again.headers[BEHIND_HEADER]) == (304, "0")


def test_primary_answers_where_the_replica_lags_beyond_the_bound(
    primary: Flask, auditor: Account, standby: Standby
) -> None:
    with reading_from(primary, standby.port, lag=1) as app:
        standby.hold_back()
        missing = append(primary)
        wait_for(lambda: BEHIND_HEADER not in audits(app, auditor).headers)
        assert missing in shown(audits(app, auditor))
        with pytest.raises(CheckFailed, match="more than 1 s behind: the primary is read instead"):
            said(app)


def test_primary_answers_where_the_replica_is_gone_until_it_is_back(
    primary: Flask, auditor: Account, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reading_from(primary, standby.port) as app:
        assert BEHIND_HEADER in audits(app, auditor).headers
        standby.stop()
        answer = audits(app, auditor)
        assert append(primary) not in shown(answer)
        assert BEHIND_HEADER not in answer.headers
        with pytest.raises(CheckFailed, match="it does not answer: the primary is read instead"):
            said(app)
        monkeypatch.setattr(replica, "REST", 0)
        standby.start()
        wait_for(lambda: BEHIND_HEADER in audits(app, auditor).headers)


def test_promoted_replica_is_not_believed(
    primary: Flask, auditor: Account, standby: Standby
) -> None:
    """Of two primaries one is a former one, which nobody may take for a replica."""
    with reading_from(primary, standby.port) as app:
        assert BEHIND_HEADER in audits(app, auditor).headers
        standby.hold_back()
        missing = append(primary)
        assert standby.run("select pg_promote()") == [(True,)]
        answer = audits(app, auditor)
        assert BEHIND_HEADER not in answer.headers
        assert missing in shown(answer)
        with pytest.raises(CheckFailed, match="it is no replica"):
            said(app)


def test_replica_is_read_in_the_same_scope_and_by_the_same_role(
    primary: Flask, standby: Standby
) -> None:
    acme, other = (add_tenant(primary) for _ in range(2))
    append_events(
        primary,
        *(
            make_event(scope=EventScope(kind="tenant", tenant=t.slug, tenant_id=t.id))
            for t in (acme, other)
        ),
    )
    standby.catch_up()
    with (
        reading_from(primary, standby.port) as app,
        app.app_context(),
        db.scoped(TenantScope(acme.id)),
        db.read_session() as reading,
    ):
        assert reading.behind == 0
        owners = set(reading.session.scalars(select(AuditEventRow.visible_to)))
        assert acme.id in owners
        assert other.id not in owners
        assert reading.session.scalar(select(func.current_user())) == "sightline_tenant"
        with pytest.raises(DBAPIError, match="read-only transaction"):
            reading.session.execute(select(func.raise_generations(["tenant"])))


def test_unscoped_reading_is_refused(primary: Flask, standby: Standby) -> None:
    with (
        reading_from(primary, standby.port) as app,
        app.app_context(),
        pytest.raises(UnscopedSession),
        db.read_session(),
    ):
        pass


def test_read_is_repeated_on_the_primary_where_the_replica_fails_meanwhile(
    primary: Flask, standby: Standby
) -> None:
    def read(session: ScopedSession) -> bool:
        on_replica = session.scalars(select(func.pg_is_in_recovery())).one()
        if on_replica:
            standby.stop()
        return bool(session.scalars(select(func.pg_is_in_recovery())).one())

    with reading_from(primary, standby.port) as app, app.app_context(), db.scoped(LedgerScope()):
        assert db.read(read) == Read(False, None)


def test_command_reads_from_the_replica_and_says_so(
    primary: Flask, auditor: Account, standby: Standby
) -> None:
    append(primary)
    standby.catch_up()
    with reading_from(primary, standby.port) as app:
        standby.hold_back()
        missing = append(primary)
        wait_for(lambda: audits(app, auditor).get_json()["behind"] >= 1)
        arguments = ["audit", "search", "--reason", "maintenance", "--json"]
        done = app.test_cli_runner().invoke(args=arguments)
    assert done.exit_code == 0
    assert missing not in done.stdout
    assert re.search(r"^Read from a replica, which is \d+ s behind\.$", done.stderr, re.MULTILINE)


def test_without_a_replica_everything_is_read_from_the_primary(primary: Flask) -> None:
    assert said(primary) == "none is set: everything is read from the primary"
    with primary.app_context(), db.scoped(LedgerScope()), db.read_session() as reading:
        assert reading.session is db.session
        assert reading.behind is None
