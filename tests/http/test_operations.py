"""What only operators may read where Sightline is deployed: the metrics, and the API's page."""

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.applications import application_of
from tests.factories import Account
from webapp.http.public import is_public

TOKEN = "Vt3-kQ8yWc1RzNf6HjLp0XsBg5UoEa7MdYi2TxJr4Kv9CwAq"  # noqa: S105 - of this test only
PATHS = ("/metrics", "/openapi.json", "/docs", "/docs/", "/docs/page.js", "/docs/contract.md")
PROBES = {"/healthz", "/readyz"}
"""What anybody may ask, wherever it is."""


def basic(password: str, user: str = "prometheus") -> dict[str, str]:
    shown = b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {shown}"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def deployed(app: Flask) -> Iterator[Flask]:
    settings = replace(app.extensions["settings"], env="production", operations_token=TOKEN)
    with application_of(settings) as made:
        yield made


@pytest.fixture
def stranger(deployed: Flask) -> FlaskClient:
    return deployed.test_client()


@pytest.mark.parametrize("path", PATHS)
def test_path_for_operators_is_open_in_development(client: FlaskClient, path: str) -> None:
    with client.get(path) as answer:  # which closes the file that is sent
        assert answer.status_code == 200


@pytest.mark.parametrize("path", [*PATHS, "/docs/nothing"])
def test_deployed_path_for_operators_asks_for_the_token(stranger: FlaskClient, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 401
    assert answer.get_json()["code"] == "unauthenticated"
    schemes = {challenge.split()[0] for challenge in answer.headers["WWW-Authenticate"].split(", ")}
    assert {"Basic", "Bearer"} <= schemes
    assert stranger.head(path).status_code == 401


@pytest.mark.parametrize("path", PATHS)
def test_deployed_path_for_operators_is_shown_for_the_token(
    stranger: FlaskClient, path: str
) -> None:
    for shown in (bearer(TOKEN), basic(TOKEN), basic(TOKEN, user="")):
        with stranger.get(path, headers=shown) as answer:
            assert answer.status_code == 200


def test_second_token_of_operators_is_accepted_where_one_is_set(deployed: Flask) -> None:
    settings = replace(deployed.extensions["settings"], operations_token_accepted=TOKEN[::-1])
    with application_of(settings) as both:
        shown = [TOKEN, TOKEN[::-1], TOKEN[1:]]
        answers = [both.test_client().get("/metrics", headers=bearer(token)) for token in shown]
    assert [answer.status_code for answer in answers] == [200, 200, 401]


@pytest.mark.parametrize(
    "shown",
    [
        *(bearer(""), bearer(TOKEN[:-1]), bearer(f"{TOKEN}x"), bearer("ü" * 48)),
        *(basic(""), basic("wrong"), basic("wrong", user=TOKEN)),
        *({"Authorization": TOKEN}, {"Authorization": "Basic !"}, {"Authorization": "Digest x"}),
    ],
)
def test_deployed_path_for_operators_is_not_shown_for_anything_else(
    stranger: FlaskClient, shown: dict[str, str]
) -> None:
    assert stranger.get("/metrics", headers=shown).status_code == 401


def test_token_of_a_person_is_not_that_of_operators(stranger: FlaskClient, owner: Account) -> None:
    assert stranger.get("/metrics", headers=bearer(owner.token)).status_code == 401
    assert stranger.get("/admin/api/rules", headers=bearer(TOKEN)).status_code == 401


def test_deployed_without_a_token_has_no_paths_for_operators(app: Flask) -> None:
    settings = replace(app.extensions["settings"], env="production")
    with application_of(settings) as made:
        stranger = made.test_client()
        answers = [stranger.get(path, headers=bearer(TOKEN)) for path in PATHS]
    assert {(answer.status_code, answer.get_json()["code"]) for answer in answers} == {
        (404, "not_found")
    }


def test_deployed_product_shows_strangers_its_probes_and_its_log_and_nothing_else(
    deployed: Flask, stranger: FlaskClient
) -> None:
    public = [
        rule.rule.replace("<name>", "page.js")
        for rule in deployed.url_map.iter_rules()
        if is_public(deployed.view_functions[rule.endpoint])
    ]
    shown = {path for path in public if stranger.get(path).status_code != 401}
    assert {path for path in shown if not path.startswith("/log/")} == PROBES


def test_wrong_tokens_of_operators_are_limited(app: Flask) -> None:
    settings = replace(
        app.extensions["settings"],
        env="production",
        operations_token=TOKEN,
        trusted_proxies=0,
        rate_limit_failures=0.1,
    )
    with application_of(settings) as made:
        stranger = made.test_client()
        statuses = [stranger.get("/metrics", headers=bearer("wrong")).status_code for _ in "ab"]
        assert statuses == [401, 429]
        assert stranger.get("/metrics", headers=bearer(TOKEN)).status_code == 200
