"""A broker that is gone or hangs: no look is shown, and nothing else is held up."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.audit.looks import looking_app
from tests.audit.receipts import events_of_request, receipt
from tests.factories import INCIDENT, Account, add_account, add_tenant
from webapp.audit.recorder import RECEIPT_HEADER, REFUSED
from webapp.stack.servers import RedisServer, free_port

Outage = Callable[[RedisServer], None]

OUTAGES: dict[str, Outage] = {"gone": RedisServer.kill, "hanging": RedisServer.pause}


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, free_port())
    server.start()
    yield server
    server.stop()
    server.client.close()


@pytest.fixture
def cut_off(app: Flask, redis_server: RedisServer) -> Iterator[Flask]:
    """An application with a broker of its own, which no worker reads from."""
    settings = replace(
        app.extensions["settings"], celery_broker_url=redis_server.url, audit_timeout=0.5
    )
    with looking_app(settings) as made:
        yield made


@pytest.fixture
def client(cut_off: Flask) -> FlaskClient:
    return cut_off.test_client()


@pytest.fixture(params=OUTAGES)
def outage(request: pytest.FixtureRequest) -> Outage:
    return OUTAGES[request.param]


def ask(client: FlaskClient, who: Account, path: str = "/admin/api/rules") -> TestResponse:
    return client.get(path, headers=who.headers("global", INCIDENT))


def assert_withheld(answer: TestResponse) -> None:
    assert answer.status_code == 503
    assert answer.mimetype == "application/problem+json"
    problem = answer.get_json(force=True)
    assert problem["code"] == "audit_unavailable"
    assert problem.keys() == {"type", "title", "status", "instance", "code", "request_id"}
    assert int(answer.headers["Retry-After"]) > 0
    assert RECEIPT_HEADER not in answer.headers
    assert "ETag" not in answer.headers


@pytest.mark.parametrize("connected", [False, True], ids=["at first", "later"])
def test_no_look_is_shown(
    client: FlaskClient,
    engineer: Account,
    redis_server: RedisServer,
    outage: Outage,
    *,
    connected: bool,
) -> None:
    """While the broker is out the answer comes nevertheless, and says nothing of the rules."""
    if connected:
        assert ask(client, engineer).status_code == 200
    before = REFUSED._value.get()
    outage(redis_server)
    assert_withheld(ask(client, engineer))
    assert_withheld(ask(client, engineer))
    assert REFUSED._value.get() == before + 2


def test_what_streams_does_not_begin(
    client: FlaskClient, engineer: Account, redis_server: RedisServer, outage: Outage
) -> None:
    outage(redis_server)
    answer = ask(client, engineer, "/admin/looks/streams")
    assert_withheld(answer)
    assert b"x" * 100 not in answer.data


def test_no_denial_or_failure_is_told_without_a_record(
    client: FlaskClient, engineer: Account, redis_server: RedisServer, outage: Outage
) -> None:
    outage(redis_server)
    assert_withheld(ask(client, engineer, "/admin/api/audits"))
    assert_withheld(ask(client, engineer, "/admin/looks/raises"))
    assert_withheld(ask(client, engineer, "/admin/looks/not-found"))


def test_not_modified_is_an_answer_too(
    client: FlaskClient, engineer: Account, redis_server: RedisServer, outage: Outage
) -> None:
    seen = ask(client, engineer)
    headers = {**engineer.headers("global", INCIDENT), "If-None-Match": seen.headers["ETag"]}
    assert client.get("/admin/api/rules", headers=headers).status_code == 304
    outage(redis_server)
    assert_withheld(client.get("/admin/api/rules", headers=headers))


def test_a_plain_request_is_served(
    app: Flask, client: FlaskClient, redis_server: RedisServer, outage: Outage
) -> None:
    tenant = add_tenant(app)
    member = add_account(app, member_of={tenant.slug: "member"})
    outage(redis_server)
    answer = client.get("/admin/api/rules", headers=member.headers())
    assert answer.status_code == 200
    assert receipt(answer) == []


def test_a_request_that_ends_without_an_answer_ends(
    client: FlaskClient, engineer: Account, redis_server: RedisServer, outage: Outage
) -> None:
    outage(redis_server)
    with pytest.raises(SystemExit):
        ask(client, engineer, "/admin/looks/exits")


def test_it_comes_back_by_itself(
    client: FlaskClient, engineer: Account, redis_server: RedisServer, outage: Outage
) -> None:
    assert ask(client, engineer).status_code == 200
    outage(redis_server)
    assert_withheld(ask(client, engineer))
    if outage is RedisServer.pause:
        redis_server.resume()
    else:
        redis_server.start()
    statuses: list[int] = []
    while 200 not in statuses:
        statuses.append(ask(client, engineer).status_code)
        assert len(statuses) < 60, "looks are refused for ever"


def test_what_cannot_be_written_down_is_not_shown(
    app: Flask, cut_off: Flask, engineer: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong with the recording itself."""

    def fail(_: object) -> None:
        raise TypeError("not an event that can be written")

    monkeypatch.setattr(cut_off.extensions["audit"], "hand_off", fail)
    request_id = uuid4().hex
    headers = {**engineer.headers("global", INCIDENT), "X-Request-ID": request_id}
    assert_withheld(cut_off.test_client().get("/admin/api/rules", headers=headers))
    assert events_of_request(app, request_id) == []
