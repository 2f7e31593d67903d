"""Rate limits: who sends too much is refused, and nobody else."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from prometheus_client import REGISTRY
from sqlalchemy import event
from werkzeug.test import TestResponse

from tests.applications import application_of
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from webapp.extensions import db
from webapp.http import rate_limits
from webapp.http.errors import ProblemSchema, RateLimited
from webapp.http.rate_limits import KNOWN, Limit
from webapp.stack.servers import free_port

PATH = "/admin/api/rules"
SLOW = 0.001
"""Requests a second: one at once, and no other while a test runs."""


@contextmanager
def limited(app: Flask, **changes: Any) -> Iterator[Flask]:
    with application_of(replace(app.extensions["settings"], **changes)) as made:
        yield made


def ask(
    app: Flask, account: Account | str, address: str = "192.0.2.1", **scope: str
) -> TestResponse:
    headers = (
        {"Authorization": f"Bearer {account}"}
        if isinstance(account, str)
        else account.headers(**scope)
    )
    return app.test_client().get(PATH, headers=headers, environ_overrides={"REMOTE_ADDR": address})


def unknown(number: int) -> str:
    return f"slt_{number:043}"


@contextmanager
def statements(app: Flask) -> Iterator[list[str]]:
    """The statements that the block sends to the database."""
    sent: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        sent.append(statement)

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def lookups(sent: list[str]) -> int:
    return sum("api_tokens" in statement for statement in sent)


def refuses(answer: TestResponse, limit: str) -> bool:
    """Whether it is a whole refusal by this limit."""
    if answer.status_code != 429:
        return False
    body = answer.get_json()
    assert ProblemSchema().validate(body) == {}
    assert body["code"] == "rate_limited"
    wait = int(answer.headers["Retry-After"])
    assert 0 < wait <= 1 / SLOW
    assert answer.headers["RateLimit"] == f'"{limit}";r=0;t={wait}'
    assert answer.headers["RateLimit-Policy"] == f'"{limit}";q=1;w={round(1 / SLOW)}'
    assert "Sightline-Audit" not in answer.headers
    return True


def test_principal_that_sends_too_much_is_refused_alone(app: Flask, tenant: MadeTenant) -> None:
    first, second = (add_account(app, member_of={tenant.slug: "admin"}) for _ in range(2))
    with limited(app, rate_limit_principal=SLOW) as other:
        assert ask(other, first).status_code == 200
        assert refuses(ask(other, first, "192.0.2.9"), "principal")
        assert ask(other, second).status_code == 200


def test_tenant_whose_people_send_too_much_is_refused_alone(
    app: Flask, tenant: MadeTenant, outsider: Account, engineer: Account
) -> None:
    first, second = (add_account(app, member_of={tenant.slug: "admin"}) for _ in range(2))
    with limited(app, rate_limit_tenant=SLOW) as other:
        for _ in range(2):  # staff take nothing from the tenant, and it refuses none of them
            elevated = ask(other, engineer, scope=f"tenant:{tenant.slug}", reason=INCIDENT)
            assert elevated.status_code == 200
        assert ask(other, first).status_code == 200
        assert refuses(ask(other, second), "tenant")
        elevated = ask(other, engineer, scope=f"tenant:{tenant.slug}", reason=INCIDENT)
        assert elevated.status_code == 200
        assert ask(other, outsider).status_code == 200


@pytest.mark.parametrize(
    ("address", "same", "elsewhere"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8:0:0:ffff::2", "2001:db8:0:1::1"),
    ],
)
def test_address_that_sends_too_much_is_refused_before_its_token_is_looked_up(
    app: Flask, admin: Account, address: str, same: str, elsewhere: str
) -> None:
    with limited(app, rate_limit_address=SLOW) as other, statements(other) as sent:
        assert ask(other, unknown(1), address).status_code == 401
        before = lookups(sent)
        assert refuses(ask(other, unknown(2), same), "address")
        assert lookups(sent) == before == 1
        assert ask(other, admin, elsewhere).status_code == 200


def test_address_with_bad_tokens_may_use_those_known_to_be_good(
    app: Flask, admin: Account, outsider: Account
) -> None:
    with limited(app, rate_limit_failures=SLOW) as other, statements(other) as sent:
        assert ask(other, admin).status_code == 200
        assert ask(other, unknown(1)).status_code == 401
        before = lookups(sent)
        assert refuses(ask(other, unknown(2)), "failures")
        assert refuses(ask(other, outsider), "failures")
        assert lookups(sent) == before
        assert ask(other, admin).status_code == 200
        assert ask(other, outsider, "192.0.2.2").status_code == 200


def test_missing_credentials_count_as_bad_ones(app: Flask) -> None:
    name = "sightline_auth_failures_total"
    before = REGISTRY.get_sample_value(name) or 0
    with limited(app, rate_limit_failures=SLOW) as other:
        assert ask(other, "none").status_code == 401
        assert refuses(ask(other, "none"), "failures")
    assert REGISTRY.get_sample_value(name) == before + 2


def test_unknown_token_is_looked_up_once_until_identities_change(app: Flask) -> None:
    with statements(app) as sent:
        token = unknown(7)
        for _ in range(3):
            assert ask(app, token).status_code == 401
        assert lookups(sent) == 1
        add_tenant(app)
        sent.clear()
        assert ask(app, token).status_code == 401
        assert lookups(sent) == 1


def test_limits_hold_without_redis(app: Flask, admin: Account) -> None:
    gone = f"redis://127.0.0.1:{free_port()}/0"
    with limited(app, rate_limit_principal=SLOW, redis_url=gone) as other:
        assert ask(other, admin).status_code == 200
        assert refuses(ask(other, admin), "principal")


def test_answer_tells_the_limit_of_which_least_is_left(app: Flask, admin: Account) -> None:
    rates = {"rate_limit_address": 100.0, "rate_limit_principal": 10.0, "rate_limit_tenant": 50.0}
    with limited(app, **rates) as other:
        answer = ask(other, admin)
        assert answer.headers["RateLimit"] == '"principal";r=99;t=1'
        assert answer.headers["RateLimit-Policy"] == '"principal";q=100;w=10'
        assert "RateLimit" not in other.test_client().get("/healthz").headers


def test_limit_of_zero_is_none(app: Flask, admin: Account) -> None:
    names = ("address", "failures", "principal", "tenant")
    with limited(app, **{f"rate_limit_{name}": 0.0 for name in names}) as other:
        answers = [ask(other, admin) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert not any("RateLimit" in answer.headers for answer in answers)


def test_address_that_may_be_a_proxys_is_not_limited(app: Flask) -> None:
    rates = {"rate_limit_address": SLOW, "rate_limit_failures": SLOW}
    with limited(app, **rates, trusted_proxies=None, env="production") as other:
        assert [ask(other, unknown(n)).status_code for n in range(3)] == [401] * 3


def test_refusal_takes_nothing_from_a_limit() -> None:
    limit = Limit("test", SLOW)
    limit.take("a")
    waits = []
    for _ in range(3):
        with pytest.raises(RateLimited) as caught:
            limit.take("a")
        waits.append(int(caught.value.headers["Retry-After"]))
    assert max(waits) <= 1 / SLOW


def test_full_bucket_gives_its_only_token_whatever_the_clock_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(rate_limits, "monotonic", lambda: clock.now)
    limit = Limit("test", SLOW)
    for number in range(2000):  # with some of them, subtracting what was added leaves a rest
        clock.now += 0.37
        assert limit.take(number) == 0
        with pytest.raises(RateLimited):
            limit.take(number)


def test_limit_forgets_what_it_has_known_for_longest() -> None:
    limit = Limit("test", SLOW)
    limit.take("first")
    for number in range(KNOWN):
        limit.take(number)
    assert limit.take("first") == 0
    with pytest.raises(RateLimited):
        limit.take(KNOWN - 1)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs/", "/healthz", "/nowhere"])
def test_public_route_refuses_an_address_that_asks_too_often(app: Flask, path: str) -> None:
    with limited(app, rate_limit_address=SLOW) as other:
        client = other.test_client()
        answers = [client.get(path) for _ in range(2)]
        assert answers[0].status_code != 429
        assert refuses(answers[1], "address")
        elsewhere = client.get(path, environ_overrides={"REMOTE_ADDR": "192.0.2.77"})
        assert elsewhere.status_code == answers[0].status_code


def test_probe_passes_whatever_else_comes_from_its_address(app: Flask, admin: Account) -> None:
    with limited(app, rate_limit_address=SLOW) as other:
        proxy = {"REMOTE_ADDR": "192.0.2.1"}
        assert [ask(other, admin).status_code for _ in range(3)] == [200, 429, 429]
        assert other.test_client().get("/healthz", environ_overrides=proxy).status_code == 200


def test_probe_passes_behind_a_proxy_that_is_not_known(app: Flask) -> None:
    with limited(app, rate_limit_address=SLOW, trusted_proxies=None, env="production") as other:
        client = other.test_client()
        assert [client.get("/healthz").status_code for _ in range(5)] == [200] * 5
