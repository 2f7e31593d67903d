"""Idempotency of elevations: a question is decided and recorded once, and its answer never changes.

It holds for concurrent questions, and for questions repeated after a process has died.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import orjson
import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from tests.applications import application_of
from tests.audit.journal.journals import hanging_disk
from tests.audit.receipts import committed, receipt, second_connection, wait_for
from tests.elevations.calls import PATH, ask, question
from tests.elevations.conftest import MakeRule
from tests.factories import Account, MadeTenant, add_account
from tests.processes import Web, run_server
from tests.rules.calls import problem
from webapp.audit.models import AuditEventRow
from webapp.db.scopes import PrincipalScope
from webapp.elevations import service as elevations
from webapp.elevations.models import ElevationRow
from webapp.extensions import db

REPLAYED = "Idempotency-Replayed"
SERVER = ["gunicorn", "tests.elevations.serving:app"]
TIMEOUT = 180
IMPATIENT = 0.3
RACERS = 6


def accesses_of(app: Flask, person: Account) -> set[UUID]:
    """The ids of the events of a person's accesses in the ledger."""
    with second_connection(app) as session:
        statement = select(AuditEventRow.id).where(AuditEventRow.actor_id == person.id)
        return set(session.scalars(statement))


def keys_of(app: Flask, seen_by: UUID) -> list[str]:
    with app.app_context(), db.scoped(PrincipalScope(seen_by, staff=True)):
        return list(db.session.scalars(select(ElevationRow.key)))


def test_repeated_question_gets_the_stored_answer_whatever_the_rules_say_now(
    app: Flask,
    worker: None,
    client: FlaskClient,
    service: Account,
    engineer: Account,
    tenant: MadeTenant,
    admin: Account,
    surface: str,
    make_rule: MakeRule,
) -> None:
    """The rules are not evaluated again."""
    key, body = str(uuid4()), question(engineer.email, tenant, surface=surface)
    first = ask(client, service, body, key)
    make_rule("deny", admin)
    with mock.patch.object(elevations, "decide_elevation", side_effect=AssertionError):
        again = [ask(client, service, body, key) for _ in range(3)]
    assert REPLAYED not in first.headers
    for answer in again:
        assert (answer.status_code, answer.data) == (200, first.data)
        assert answer.headers[REPLAYED] == "true"
        assert answer.headers["ETag"] == first.headers["ETag"]
        assert receipt(answer) == []
    committed(app, *receipt(first))
    assert accesses_of(app, engineer) == set(receipt(first))
    assert ask(client, service, body).get_json()["decision"] == "denied"


def test_differently_formatted_json_is_the_same_question(
    client: FlaskClient, service: Account, engineer: Account
) -> None:
    body = question(engineer.email)
    headers = {
        **service.headers(),
        "Idempotency-Key": "written",
        "Content-Type": "application/json",
    }
    turned = dict(reversed(body.items()))
    bodies = [orjson.dumps(body), orjson.dumps(turned, option=orjson.OPT_INDENT_2)]
    first, second = (
        client.post(PATH, headers=headers, data=body, content_type="application/json")
        for body in bodies
    )
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.data == first.data


def test_key_of_another_question_is_refused_and_recorded_as_the_services_attempt(
    app: Flask,
    worker: None,
    client: FlaskClient,
    service: Account,
    engineer: Account,
    tenant: MadeTenant,
) -> None:
    key, body = str(uuid4()), question(engineer.email, tenant)
    first = ask(client, service, body, key)
    for other in (question(engineer.email), question(engineer.email, tenant, "fraud")):
        refused = ask(client, service, other, key)
        assert problem(refused) == (422, "invalid", ["Idempotency-Key"])
        (attempt,) = committed(app, *receipt(refused))
        assert attempt["actor"]["email"] == service.email
        assert (attempt["outcome"], attempt["http_status"]) == ("failed", 422)
    assert ask(client, service, body, key).data == first.data


def test_two_services_may_use_the_same_key(
    app: Flask, client: FlaskClient, service: Account, engineer: Account, tenant: MadeTenant
) -> None:
    key, other = str(uuid4()), add_account(app, "service")
    mine = ask(client, service, question(engineer.email, tenant), key)
    theirs = ask(client, other, question(engineer.email), key)
    assert (mine.status_code, theirs.status_code) == (200, 200)
    assert theirs.get_json()["receipt"] != mine.get_json()["receipt"]
    assert keys_of(app, service.id) == keys_of(app, other.id) == [key]
    assert keys_of(app, engineer.id) == []


KEYS = {
    "quoted": '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
    "bare": "8e03978e-40d5-43dd-bc93-6894a57f9324",
    "with what needs quotes": r'"a \"key\", quoted"',
    "as long as may be": f'"{"k" * 128}"',
}
NO_KEYS = {
    "none": None,
    "empty": "",
    "nothing in quotes": '""',
    "too long": f'"{"k" * 129}"',
    "bare and too long": "k" * 129,
    "two": "one, two",
    "with parameters": '"key";a=1',
    "open quotes": '"key',
    "not ASCII": '"\xe9"',
    "a space": "a key",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_key_is_accepted_with_and_without_quotes(
    app: Flask, client: FlaskClient, service: Account, engineer: Account, key: str
) -> None:
    headers = {**service.headers(), "Idempotency-Key": key}
    first, again = (
        client.post(PATH, headers=headers, json=question(engineer.email)) for _ in range(2)
    )
    assert (first.status_code, again.data) == (200, first.data)
    unquoted = key.strip('"').replace("\\", "")
    assert keys_of(app, service.id) == [unquoted]
    bare_or_quoted = {**headers, "Idempotency-Key": key.strip('"') if " " not in key else key}
    third = client.post(PATH, headers=bare_or_quoted, json=question(engineer.email))
    assert third.headers[REPLAYED] == "true"


@pytest.mark.parametrize("key", NO_KEYS.values(), ids=NO_KEYS)
def test_question_with_an_invalid_key_is_refused_and_not_stored(
    app: Flask, client: FlaskClient, service: Account, engineer: Account, key: str | None
) -> None:
    headers = service.headers() if key is None else {**service.headers(), "Idempotency-Key": key}
    answer = client.post(PATH, headers=headers, json=question(engineer.email))
    assert problem(answer) == (422, "invalid", ["Idempotency-Key"])
    assert len(receipt(answer)) == 1  # the service's attempt
    assert keys_of(app, service.id) == []


def test_concurrent_questions_with_one_key_get_one_answer(
    app: Flask, worker: None, service: Account, engineer: Account, tenant: MadeTenant
) -> None:
    """All of the requests have decided before the first one reserves the key."""
    key, together = str(uuid4()), Barrier(RACERS, timeout=TIMEOUT)
    claim = elevations._claim

    def claim_together(*arguments: Any) -> bool:
        together.wait()
        return claim(*arguments)

    def race(_: int) -> Any:
        return ask(app.test_client(), service, question(engineer.email, tenant), key)

    with (
        mock.patch.object(elevations, "_claim", claim_together),
        ThreadPoolExecutor(RACERS) as threads,
    ):
        answers = list(threads.map(race, range(RACERS)))
    assert {answer.status_code for answer in answers} == {200}
    (answer,) = {answer.data for answer in answers}
    assert sum(REPLAYED not in answer.headers for answer in answers) == 1
    receipt_id = UUID(orjson.loads(answer)["receipt"])
    committed(app, receipt_id)
    assert accesses_of(app, engineer) == {receipt_id}


def test_question_that_waited_for_a_failed_one_is_decided(
    app: Flask, worker: None, service: Account, engineer: Account, tenant: MadeTenant
) -> None:
    key, body = str(uuid4()), question(engineer.email, tenant)
    together, claim = Barrier(2, timeout=TIMEOUT), elevations._claim
    failed: list[bool] = []

    def claim_and_fail_once(*arguments: Any) -> bool:
        together.wait()
        claimed = claim(*arguments)
        if claimed and not failed:
            failed.append(True)
            raise RuntimeError("something else is wrong")
        return claimed

    with (
        mock.patch.object(elevations, "_claim", claim_and_fail_once),
        ThreadPoolExecutor(2) as threads,
    ):
        answers = list(threads.map(lambda _: ask(app.test_client(), service, body, key), range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 500]
    (served,) = (answer for answer in answers if answer.status_code == 200)
    assert REPLAYED not in served.headers
    assert ask(app.test_client(), service, body, key).data == served.data


@pytest.fixture
def impatient(app: Flask, tmp_path: Path) -> Iterator[Flask]:
    """An application with its own journal, for which it waits only a moment."""
    settings = replace(
        app.extensions["settings"], journal_dir=tmp_path / "journal", audit_timeout=IMPATIENT
    )
    with application_of(settings) as made:
        yield made


@pytest.mark.parametrize("reason", ["incident", "break_glass"], ids=["allowed", "denied"])
def test_elevation_that_cannot_be_recorded_is_not_answered(
    impatient: Flask,
    worker: None,
    service: Account,
    engineer: Account,
    tenant: MadeTenant,
    reason: str,
) -> None:
    client, key = impatient.test_client(), str(uuid4())
    body = question(engineer.email, tenant, reason)
    ask(client, service, body)  # creates the journal's file and caches the rules
    with hanging_disk(impatient.extensions["sightline.journal"].file):
        refused = ask(client, service, body, key)
    assert (refused.status_code, refused.get_json()["code"]) == (503, "audit_unavailable")
    assert refused.headers["Retry-After"]
    assert b"decision" not in refused.data
    assert key not in keys_of(impatient, service.id)
    again = ask(client, service, body, key)
    assert (again.status_code, REPLAYED in again.headers) == (200, False)
    assert again.get_json()["decision"] == ("allowed" if reason == "incident" else "denied")


@pytest.fixture
def mortal(worker: None, environment: Mapping[str, str], tmp_path: Path) -> Iterator[Web]:
    """A gunicorn whose process dies at the moment that the file `dies` names."""
    settings = {
        **environment,
        "JOURNAL_DIR": str(tmp_path / "journal"),
        "WEB_CONCURRENCY": "2",
        "DIES": str(tmp_path / "dies"),
    }
    with run_server(SERVER, "/healthz", settings, tmp_path / "web.log") as web:
        yield web


def post(web: Web, service: Account, key: str, body: Mapping[str, Any]) -> requests.Response:
    headers = {**service.headers(), "Idempotency-Key": key}
    return requests.post(f"{web.url}{PATH}", headers=headers, json=body, timeout=TIMEOUT)


@pytest.mark.slow
def test_process_that_dies_before_the_answer_leaves_an_interrupted_access(
    app: Flask, mortal: Web, service: Account, engineer: Account, tmp_path: Path
) -> None:
    key = uuid4().hex
    (tmp_path / "dies").write_text("begun")
    with pytest.raises(requests.ConnectionError):
        post(mortal, service, key, question(engineer.email))
    again = post(mortal, service, key, question(engineer.email))
    assert (again.status_code, REPLAYED in again.headers) == (200, False)
    (answered,) = receipt(again)
    assert post(mortal, service, key, question(engineer.email)).content == again.content
    wait_for(lambda: len(accesses_of(app, engineer)) == 2)
    (first,) = accesses_of(app, engineer) - {answered}
    outcomes = [event["outcome"] for event in committed(app, first, answered)]
    assert outcomes == ["interrupted", "served"]


@pytest.mark.slow
def test_answer_committed_before_the_process_died_is_replayed(
    app: Flask, mortal: Web, service: Account, engineer: Account, tmp_path: Path
) -> None:
    key = uuid4().hex
    (tmp_path / "dies").write_text("committed")
    with pytest.raises(requests.ConnectionError):
        post(mortal, service, key, question(engineer.email))
    again = post(mortal, service, key, question(engineer.email))
    assert (again.status_code, again.headers[REPLAYED]) == (200, "true")
    answer = UUID(again.json()["receipt"])
    (event,) = committed(app, answer)
    assert (event["outcome"], accesses_of(app, engineer)) == ("interrupted", {answer})
