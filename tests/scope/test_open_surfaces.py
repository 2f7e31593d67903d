"""With a journal that cannot be written: a closed surface shows nothing, an open one does."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Blueprint, Flask, Response
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.factories import INCIDENT, Account
from webapp import create_app
from webapp.audit.recorder import UNVOUCHED
from webapp.audit.relay import pipeline
from webapp.extensions import db
from webapp.scope.surface import surface

ROWS = "rows of many tenants"

blueprint = Blueprint("open", __name__)


@blueprint.get("/open")
@surface("things.open", tenant_roles=(), platform_roles=("engineer",), open_because="a status page")
def opened() -> Response:
    return Response(ROWS)


@blueprint.get("/closed")
@surface("things.closed", tenant_roles=(), platform_roles=("engineer",))
def closed() -> Response:
    return Response(ROWS)


@blueprint.get("/empty")
@surface("things.empty", tenant_roles=(), platform_roles=("engineer",), open_because="")
def without_reason() -> Response:
    """What the lint refuses is closed all the same."""
    return Response(ROWS)


@pytest.fixture
def client(app: Flask, tmp_path: Path) -> Iterator[FlaskClient]:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    made = create_app(replace(app.extensions["settings"], journal_dir=in_the_way / "journal"))
    made.register_blueprint(blueprint)
    yield made.test_client()
    pipeline.stop(made, 0)
    with made.app_context():
        db.engine.dispose()


def ask(client: FlaskClient, who: Account, path: str) -> TestResponse:
    return client.get(path, headers=who.headers("global", INCIDENT))


def test_an_open_surface_is_shown_and_raises_an_alarm(
    client: FlaskClient, engineer: Account
) -> None:
    before = UNVOUCHED._value.get()
    answer = ask(client, engineer, "/open")
    assert (answer.status_code, answer.text) == (200, ROWS)
    assert UNVOUCHED._value.get() == before + 1


@pytest.mark.parametrize("path", ["/closed", "/empty"])
def test_a_closed_one_is_not(client: FlaskClient, engineer: Account, path: str) -> None:
    answer = ask(client, engineer, path)
    assert answer.status_code == 503
    assert answer.get_json(force=True)["code"] == "audit_unavailable"
    assert ROWS not in answer.text
