"""Surfaces while the journal cannot be written: closed ones show nothing, open ones answer."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Blueprint, Flask, Response
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.factories import INCIDENT, Account
from webapp.application import create_app
from webapp.audit.recorder import RECEIPT_HEADER, UNVOUCHED
from webapp.audit.relay import pipeline
from webapp.extensions import db
from webapp.identity.principal import PlatformRole
from webapp.scope.decision import GlobalTarget, Surface
from webapp.scope.enter import enter_scope
from webapp.scope.headers import parse_reason
from webapp.scope.surface import current_principal, surface

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
    """A surface with an empty reason, which the lint refuses, is closed."""
    return Response(ROWS)


def within(name: str, open_because: str | None) -> Surface:
    """Make a surface that the view of another one enters."""
    engineers: frozenset[PlatformRole] = frozenset({"engineer"})
    return Surface(name, frozenset(), engineers, open_because=open_because)


WITHIN = {
    "open": within("things.open.within", "a status page"),
    "closed": within("things.closed.within", None),
    "empty": within("things.empty.within", ""),
}


def enter_all(names: str) -> Response:
    """Enter these surfaces inside each other, and return what they show."""
    reason = parse_reason(INCIDENT)
    with ExitStack() as stack:
        for name in names.split("+"):
            entered = enter_scope(current_principal(), WITHIN[name], GlobalTarget(), reason, None)
            stack.enter_context(entered)
    return Response(ROWS)


@blueprint.get("/open/<names>")
@surface("things.open", tenant_roles=(), platform_roles=("engineer",), open_because="a status page")
def opened_with_others(names: str) -> Response:
    return enter_all(names)


@blueprint.get("/closed/<names>")
@surface("things.closed", tenant_roles=(), platform_roles=("engineer",))
def closed_with_others(names: str) -> Response:
    return enter_all(names)


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


def test_open_surface_without_journal_answers_and_raises_an_alarm(
    client: FlaskClient, engineer: Account
) -> None:
    before = UNVOUCHED._value.get()
    answer = ask(client, engineer, "/open")
    assert (answer.status_code, answer.text) == (200, ROWS)
    assert UNVOUCHED._value.get() == before + 1


def test_open_surfaces_of_one_request_answer_without_journal(
    client: FlaskClient, engineer: Account
) -> None:
    before = UNVOUCHED._value.get()
    answer = ask(client, engineer, "/open/open")
    assert (answer.status_code, answer.text) == (200, ROWS)
    assert UNVOUCHED._value.get() == before + 1


@pytest.mark.parametrize("path", ["/closed", "/empty"])
def test_closed_surface_without_journal_shows_nothing(
    client: FlaskClient, engineer: Account, path: str
) -> None:
    assert_refused(client, engineer, path)


@pytest.mark.parametrize(
    "path",
    ["/open/closed", "/open/empty", "/open/open+closed", "/open/closed+open", "/closed/open"],
)
def test_closed_surface_beside_open_one_shows_nothing_without_journal(
    client: FlaskClient, engineer: Account, path: str
) -> None:
    assert_refused(client, engineer, path)


def assert_refused(client: FlaskClient, engineer: Account, path: str) -> None:
    before = UNVOUCHED._value.get()
    answer = ask(client, engineer, path)
    assert answer.status_code == 503
    assert answer.get_json(force=True)["code"] == "audit_unavailable"
    assert ROWS not in answer.text
    assert RECEIPT_HEADER not in answer.headers
    assert UNVOUCHED._value.get() == before
