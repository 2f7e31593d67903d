import logging
from types import SimpleNamespace
from typing import Any

import marshmallow as ma
import pytest
from flask import Flask, Response, abort, redirect
from flask.testing import FlaskClient
from flask_smorest import Blueprint
from sqlalchemy import exc as sql
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response as AnyResponse

from webapp.http import errors
from webapp.http.openapi import Api, document

SECRET = "postgres://app:hunter2@10.1.2.3 select * from rules"  # noqa: S105 - a made-up one


class _Connection(Exception):
    """The error of a driver, whose text must not be shown or logged."""


def _raiser(error: Exception) -> Any:
    def view() -> Response:
        raise error

    return view


ERRORS: dict[str, Exception] = {
    "unauthenticated": errors.Unauthenticated("Send a token."),
    "reason": errors.ReasonRequired("Say why."),
    "denied": errors.ElevationDenied("No.", rules=["r1", "r2"]),
    "approval": errors.ApprovalRequired("Ask.", rules=["r1"], ask="/admin/api/grants"),
    "forbidden": errors.Forbidden(),
    "missing": errors.NotFound("There is no such rule."),
    "conflict": errors.Conflict(),
    "stale": errors.Stale(),
    "invalid": errors.Invalid("Bad.", {"name": ["Too long."]}),
    "precondition": errors.PreconditionRequired(),
    "limited": errors.RateLimited(retry_after=7),
    "audit": errors.AuditUnavailable(),
    "operational": sql.OperationalError(SECRET, {"p": SECRET}, _Connection(SECRET)),
    "pool": sql.TimeoutError(SECRET),
    "lost": sql.DBAPIError(SECRET, {}, _Connection(SECRET), connection_invalidated=True),
    "sql": sql.ProgrammingError(SECRET, {}, _Connection(SECRET)),
    "bug": ValueError(SECRET),
    "bad": BadRequest(description=SECRET),
}


def _take(body: dict[str, Any], query: dict[str, Any]) -> Response:
    return Response("taken")


class _WindowSchema(ma.Schema):
    begins = ma.fields.Integer(required=True, data_key="from")


class _BodySchema(ma.Schema):
    name = ma.fields.String(required=True)
    windows = ma.fields.List(ma.fields.Nested(_WindowSchema))

    @ma.validates_schema
    def _whole(self, data: dict[str, Any], **_: Any) -> None:
        if data["name"] == "refuse":
            raise ma.ValidationError("Not as a whole.")


class _QuerySchema(ma.Schema):
    limit = ma.fields.Integer()


@pytest.fixture(params=["ours last", "ours first"])
def client(request: pytest.FixtureRequest) -> FlaskClient:
    app = Flask("errors")
    app.config["MAX_CONTENT_LENGTH"] = 10_000
    app.extensions["settings"] = SimpleNamespace(deployed=False)
    if request.param == "ours first":
        errors.init_app(app)
    api = Api(app)
    if request.param == "ours last":
        errors.init_app(app)
    blueprint = Blueprint("bodies", "bodies", url_prefix="/bodies")

    body, query = (
        blueprint.arguments(_BodySchema),
        blueprint.arguments(_QuerySchema, location="query"),
    )
    blueprint.post("/")(body(query(_take)))
    api.register_blueprint(blueprint)
    api.register_blueprint(document.blueprint)
    for name, error in ERRORS.items():
        app.add_url_rule(f"/{name}", name, _raiser(error))
    app.add_url_rule("/own", "own", lambda: abort(Response("mine", 418)))
    app.add_url_rule("/moved", "moved", lambda: abort(redirect("/own")))
    return app.test_client()


@pytest.mark.parametrize(
    ("path", "status", "code", "headers"),
    [
        ("unauthenticated", 401, "unauthenticated", {"WWW-Authenticate": "Bearer"}),
        ("reason", 400, "reason_required", {}),
        ("denied", 403, "elevation_denied", {}),
        ("approval", 403, "approval_required", {}),
        ("forbidden", 403, "forbidden", {}),
        ("missing", 404, "not_found", {}),
        ("conflict", 409, "conflict", {}),
        ("stale", 412, "stale", {}),
        ("invalid", 422, "invalid", {}),
        ("precondition", 428, "precondition_required", {}),
        ("limited", 429, "rate_limited", {"Retry-After": "7"}),
        ("audit", 503, "audit_unavailable", {"Retry-After": "5"}),
        ("operational", 503, "database_unavailable", {"Retry-After": "5"}),
        ("pool", 503, "database_unavailable", {"Retry-After": "5"}),
        ("lost", 503, "database_unavailable", {"Retry-After": "5"}),
        ("sql", 500, "internal", {}),
        ("bug", 500, "internal", {}),
        ("bad", 400, "bad_request", {}),
        ("nowhere", 404, "not_found", {}),
        ("bodies/", 405, "method_not_allowed", {}),
    ],
)
def test_error_is_answered_with_a_problem(
    client: FlaskClient, path: str, status: int, code: str, headers: dict[str, str]
) -> None:
    response = client.get(f"/{path}")

    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    body = response.get_json(force=True)
    assert errors.ProblemSchema().validate(body) == {}
    assert body["code"] == code
    assert body["status"] == status
    assert body["type"] == f"urn:sightline:problem:{code}"
    assert body["instance"] == f"/{path}"
    assert {name: response.headers.get(name) for name in headers} == headers
    for part in ("hunter2", "10.1.2.3", "select", "Traceback", "Error"):
        assert part not in response.text


def test_wrong_method_is_answered_with_the_allowed_methods(client: FlaskClient) -> None:
    assert client.get("/bodies/").allow.as_set() == {"post", "options"}


def test_denial_names_its_rules(client: FlaskClient) -> None:
    assert client.get("/denied").get_json(force=True)["rules"] == ["r1", "r2"]
    approval = client.get("/approval").get_json(force=True)
    assert (approval["rules"], approval["ask"]) == (["r1"], "/admin/api/grants")


def test_every_error_has_its_own_code() -> None:
    kinds = errors.AppError.__subclasses__()
    assert len({kind.code for kind in kinds}) == len(kinds)


@pytest.mark.parametrize(
    ("body", "query", "fields"),
    [
        ({}, "", {"name": ["Missing data for required field."]}),
        ({"name": "refuse"}, "", {"json": ["Not as a whole."]}),
        (
            {"name": "a", "windows": [{"from": 1}, {"from": "x"}]},
            "",
            {"windows.1.from": ["Not a valid integer."]},
        ),
        ({"name": "a"}, "limit=x", {"limit": ["Not a valid integer."]}),
        ({"name": "a", "x\ud800": 1}, "", {r"x\ud800": ["Unknown field."]}),
        ([1], "", {"json": ["Invalid input type."]}),
    ],
)
def test_validation_error_has_messages_by_field(
    client: FlaskClient, body: Any, query: str, fields: dict[str, list[str]]
) -> None:
    response = client.post(f"/bodies/?{query}", json=body)

    assert response.status_code == 422
    problem = response.get_json(force=True)
    assert (problem["code"], problem["errors"]) == ("invalid", fields)


def test_many_unknown_fields_are_not_all_repeated(client: FlaskClient) -> None:
    body = {"name": "a"} | {f"unknown-{number}": 1 for number in range(200)}
    response = client.post("/bodies/", json=body)
    assert len(response.get_json(force=True)["errors"]) == errors.MAX_FIELDS


def test_body_that_is_not_json_is_invalid(client: FlaskClient) -> None:
    response = client.post("/bodies/", data="{", content_type="application/json")
    assert response.status_code == 400
    assert response.get_json(force=True)["errors"] == {"json": ["Invalid JSON body."]}


def test_too_large_body_is_refused(client: FlaskClient) -> None:
    response = client.post("/bodies/", data="x" * 20_000, content_type="application/json")
    assert response.status_code == 413
    assert response.get_json(force=True)["code"] == "request_entity_too_large"


def test_response_of_a_view_is_not_changed(client: FlaskClient) -> None:
    assert client.get("/own").text == "mine"
    moved: AnyResponse = client.get("/moved")
    assert moved.status_code == 302


def test_path_of_problem_is_encoded(client: FlaskClient) -> None:
    response = client.get("/a b\x00%ff")
    assert response.get_json(force=True)["instance"] == "/a%20b%00%EF%BF%BD"


def test_failure_after_the_view_is_answered_with_a_problem(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    @client.application.after_request
    def _fail(response: Response) -> Response:
        raise ValueError(SECRET)

    with caplog.at_level(logging.CRITICAL):
        response = client.get("/own")
    assert response.status_code == 500
    assert response.get_json(force=True)["code"] == "internal"


def test_description_has_the_schema_of_problems(client: FlaskClient) -> None:
    description = client.get("/openapi.json").get_json()
    answers = description["paths"]["/bodies/"]["post"]["responses"]
    assert answers["422"] == {"$ref": "#/components/responses/UnprocessableEntity"}
    problem = description["components"]["responses"]["UnprocessableEntity"]["content"]
    assert list(problem) == ["application/problem+json"]
    assert "request_id" in description["components"]["schemas"]["Problem"]["properties"]
