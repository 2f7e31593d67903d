"""What Flask is spared changes no answer of it."""

from collections.abc import Mapping

import pytest
from flask import Flask, Response, request, url_for
from werkzeug.test import Client

from webapp.lean import LeanFlask, LeanResponse


def fill(app: Flask) -> Client:
    @app.get("/things")
    def things() -> Response:
        return app.response_class(b"[]", content_type="application/json", direct_passthrough=True)

    @app.post("/things")
    def make() -> Response:
        answer = app.response_class(b"{}", status=201, direct_passthrough=True)
        answer.headers["Location"] = url_for("thing", number=7)
        return answer

    @app.get("/things/<int:number>")
    def thing(number: int) -> dict[str, object]:
        assert request.view_args is not None
        request.view_args["changed"] = True  # by somebody who thinks that it is the request's own
        return {"number": number, "host": request.host, "url": url_for("things", _external=True)}

    @app.get("/folder/")
    def folder() -> str:
        assert request.view_args == {}
        request.view_args["changed"] = True
        return f"{request.host} {request.url} {request.endpoint}"

    @app.get("/same")
    def same() -> Response:
        answer = app.response_class(status=304, headers={"ETag": '"1"'}, direct_passthrough=True)
        del answer.headers["Content-Type"]
        return answer

    @app.get("/same/file")
    def same_file() -> Response:
        return app.response_class(b"file", status=304, direct_passthrough=True)

    @app.get("/nothing")
    def nothing() -> Response:
        return app.response_class(status=204)

    @app.get("/stream")
    def stream() -> Response:
        return app.response_class(iter([b"one ", b"two"]), direct_passthrough=True)

    return Client(app)


PATHS = (
    *("/things", "/things/7", "/things/x", "//things", "/things/", "/folder", "/folder/"),
    *(
        "/folder//",
        "/same",
        "/same/file",
        "/nothing",
        "/stream",
        "/none",
        "/",
        "/th%C3%AFngs",
        "/folder?a=b",
    ),
)
HOSTS: tuple[Mapping[str, str], ...] = (
    *({}, {"Host": "example.org"}, {"Host": "EXAMPLE.org:8080"}, {"Host": "[::1]:80"}),
    *({"Host": ""}, {"Host": "a b"}, {"Host": "a..b"}, {"Host": "x" * 70}, {"Host": "h:99999"}),
    {"Host": "example.org", "Upgrade": "websocket"},
)


@pytest.mark.parametrize("headers", HOSTS, ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_it_answers_as_flask_does(path: str, headers: Mapping[str, str]) -> None:
    plain, lean = fill(Flask("app")), fill(LeanFlask("app"))
    for method in ("GET", "HEAD", "POST", "OPTIONS", "PUT") * 2:  # then from what it remembers
        expected = plain.open(path, method=method, headers=dict(headers))
        answer = lean.open(path, method=method, headers=dict(headers))
        assert (answer.status, answer.data) == (expected.status, expected.data)
        assert sorted(answer.headers) == sorted(expected.headers)


def test_a_route_that_takes_no_arguments_is_accessed_for_once() -> None:
    app = LeanFlask("app")
    client = fill(app)
    for path in ("/things", "/things", "/things/1", "/things/2", "/none"):
        client.get(path)
    assert list(app.matched) == [("GET", "/things")]


def test_a_body_of_known_length_says_it() -> None:
    answer = LeanResponse(b"four", direct_passthrough=True)
    assert answer.get_wsgi_headers({})["Content-Length"] == "4"
