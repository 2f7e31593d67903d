"""Requests that only a socket can send: gunicorn refuses them or hands them on."""

import json

import pytest

from tests.http.routes import RULES, Place
from tests.http.wire import CRLF, HOST, problem, send
from tests.processes import Web

GET = b"GET /healthz HTTP/1.1\r\n" + HOST


NO_HTTP: dict[str, tuple[bytes, int, str]] = {
    "a huge header": (
        GET + b"X: " + b"x" * 30_000 + CRLF * 2,
        *(431, "request_header_fields_too_large"),
    ),
    "many headers": (
        GET + b"X: x\r\n" * 200 + CRLF,
        *(431, "request_header_fields_too_large"),
    ),
    "a long path": (
        b"GET /" + b"x" * 30_000 + b" HTTP/1.1\r\n" + HOST + CRLF,
        *(414, "request_uri_too_long"),
    ),
    "a NUL in the path": (b"GET /\0secret HTTP/1.1\r\n" + HOST + CRLF, 400, "bad_request"),
    "bytes in the path": (b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + CRLF, 400, "bad_request"),
    "a NUL in a header": (GET + b"X: secret\0\r\n\r\n", 400, "bad_request"),
    "no name of a header": (GET + b"X Y: secret\r\n\r\n", 400, "bad_request"),
    "a folded header": (GET + b"X: a\r\n secret\r\n\r\n", 400, "bad_request"),
    "no method": (b"se(cret /healthz HTTP/1.1\r\n" + HOST + CRLF, 400, "bad_request"),
    "another version": (b"GET /healthz HTTP/9.9\r\n" + HOST + CRLF, 400, "bad_request"),
    "two lengths": (
        GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        *(400, "bad_request"),
    ),
    "a length and chunks": (
        GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        *(400, "bad_request"),
    ),
    "no length": (GET + b"Content-Length: x\r\n\r\n", 400, "bad_request"),
    "an expectation": (GET + b"Expect: secret\r\n\r\n", 417, "expectation_failed"),
    "another coding": (GET + b"Transfer-Encoding: secret\r\n\r\n", 501, "not_implemented"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400, "bad_request"),
}


@pytest.mark.parametrize("sent", NO_HTTP)
def test_malformed_http_is_answered_with_a_problem(web: Web, sent: str) -> None:
    request, status, code = NO_HTTP[sent]
    answer = send(web, request)
    assert (answer.status, problem(answer)["code"]) == (status, code)


def post(place: Place, rest: bytes) -> bytes:
    token = place.admin.token.encode()
    line = b"POST " + RULES.encode() + b" HTTP/1.1\r\n" + HOST
    return line + b"Content-Type: application/json\r\nAuthorization: Bearer " + token + rest


CHUNKED = b"\r\nTransfer-Encoding: chunked\r\n\r\n"
JSON = b'{"name": "chunked", "effect": "deny", "surfaces": ["billing.*"]}'
ALL_OF_IT = b"%x\r\n%s\r\n" % (len(JSON), JSON)

BAD_BODIES: dict[str, tuple[bytes, int, str]] = {
    "no size": (CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n", 422, "invalid"),
    "more than its size": (CHUNKED + b"2\r\n{}abc\r\n0\r\n\r\n", 422, "invalid"),
    "cut short": (CHUNKED + b"5\r\nabc", 400, "bad_request"),
    "a huge extension": (CHUNKED + b"2;" + b"x" * 30_000 + b"\r\n{}\r\n0\r\n\r\n", 422, "invalid"),
    "a huge trailer": (
        CHUNKED + ALL_OF_IT + b"0\r\nX: " + b"x" * 30_000 + CRLF * 2,
        *(422, "invalid"),
    ),
    "more than the limit, not said": (
        CHUNKED + ALL_OF_IT + b"%x\r\n%s\r\n" % (2**20, b" " * 2**20) + b"0\r\n\r\n",
        *(413, "request_entity_too_large"),
    ),
    "more than the limit, said": (
        b"\r\nContent-Length: %d\r\n\r\n{" % (2**21),
        *(413, "request_entity_too_large"),
    ),
    "less than it says": (b"\r\nContent-Length: 300\r\n\r\n{", 422, "invalid"),
}


@pytest.mark.parametrize("sent", BAD_BODIES)
def test_body_that_contradicts_its_headers_is_refused(web: Web, here: Place, sent: str) -> None:
    rest, status, code = BAD_BODIES[sent]
    answer = send(web, post(here, rest))
    assert (answer.status, problem(answer)["code"]) == (status, code)


def test_chunked_body_is_read_like_any_other(web: Web, new: Place) -> None:
    answer = send(web, post(new, CHUNKED + ALL_OF_IT + b"0\r\n\r\n"))
    assert (answer.status, json.loads(answer.body)["name"]) == (201, "chunked")


def test_header_with_underscore_is_ignored(web: Web, here: Place) -> None:
    token = here.admin.token.encode()
    request = b"GET " + RULES.encode() + b" HTTP/1.1\r\n" + HOST
    answer = send(
        web, request + b"Authorization: Bearer " + token + b"\r\nSightline_Scope: global\r\n\r\n"
    )
    assert answer.status == 200
    assert "sightline-audit" not in answer.headers
    nobody = send(web, request + b"Authorization_: Bearer " + token + CRLF * 2)
    assert (nobody.status, problem(nobody)["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("target", [b"http://evil.example" + RULES.encode(), b"/" + RULES.encode()])
def test_foreign_host_in_request_target_opens_nothing(web: Web, target: bytes) -> None:
    answer = send(web, b"GET " + target + b" HTTP/1.1\r\n" + HOST + CRLF)
    assert problem(answer)["code"] in {"unauthenticated", "not_found"}
    assert b"evil" not in answer.body


def test_log_of_malformed_http_names_no_other_request(web: Web, here: Place) -> None:
    """gunicorn's threads have served other requests, whose ids must not appear."""
    for _ in range(32):
        send(web, GET + CRLF)
    before = web.log.stat().st_size
    for _ in range(32):
        send(web, GET + b"X Y: z\r\n\r\n")
    said = [line for line in web.log.read_bytes()[before:].splitlines() if b"X Y" in line]
    assert len(said) == 32
    assert not any(b"request_id" in line for line in said)


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO", "Script-Name", "Path-Info"])
def test_header_that_names_another_path_is_not_believed(web: Web, name: str) -> None:
    answer = send(web, GET + name.encode() + b": /nowhere" + CRLF * 2)
    assert answer.status == 200
