"""Malformed requests: each is answered with a problem of the contract, and never with a 500."""

import re
from datetime import datetime, timedelta
from io import BytesIO
from threading import BoundedSemaphore

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.factories import INCIDENT, add_account
from tests.http.routes import ALL, AUDITS, PUBLIC, RULES, USES, Place, Use, only
from webapp.http.errors import ProblemSchema

pytestmark = pytest.mark.slow(seconds=0.05)

HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
MADE_UP_METHODS = ("BREW", "PROPFIND", "X" * 5000)
BODIES = only(USES, "body")
READS = {
    use.id: use
    for use in USES
    if use.method == "GET" and use.success < 400 and use.unsealed is None
}
OURS = re.compile(
    r"Traceback|Exception|Error\b|psycopg|sqlalchemy|marshmallow|werkzeug|webapp[./]|select ", re.I
)


def problem(answer: TestResponse) -> tuple[int, str]:
    """The status and code of a problem, which must have the form of the contract."""
    assert answer.content_type == "application/problem+json"
    body = answer.get_json()
    assert ProblemSchema().validate(body) == {}
    assert body["status"] == answer.status_code < 500
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert not OURS.search(answer.text)
    return answer.status_code, body["code"]


def paths_with_methods(place: Place) -> dict[str, set[str]]:
    """The methods of each path of the product."""
    answering: dict[str, set[str]] = {path: {"GET"} for path in PUBLIC.values()}
    for use in USES:
        answering.setdefault(use.path(place.ids), set()).add(use.method)
    for methods in answering.values():
        methods |= {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
    return answering


@pytest.fixture(autouse=True)
def _free_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever exports of other tests nobody has read to their end."""
    monkeypatch.setattr("webapp.ledger.views._exports", BoundedSemaphore(2))


class TestMethods:
    @pytest.mark.parametrize("known", [True, False], ids=["somebody", "anybody"])
    def test_method_that_path_does_not_have_is_refused(
        self, client: FlaskClient, here: Place, known: bool
    ) -> None:
        headers = here.admin.headers() if known else {}
        for path, methods in paths_with_methods(here).items():
            for method in {*HTTP_METHODS, *MADE_UP_METHODS} - methods:
                answer = client.open(path, method=method, headers=headers)
                assert answer.allow.as_set(preserve_casing=True) == methods
                if method != "HEAD":
                    assert problem(answer) == (405, "method_not_allowed")

    def test_options_are_answered_with_the_methods_only(
        self, client: FlaskClient, here: Place
    ) -> None:
        for path, methods in paths_with_methods(here).items():
            answer = client.options(path)
            assert (answer.status_code, answer.data) == (200, b"")
            assert answer.allow.as_set(preserve_casing=True) == methods
            assert "Sightline-Audit" not in answer.headers

    @pytest.mark.parametrize("use", READS.values(), ids=READS)
    def test_head_is_an_access_without_a_body(
        self, app: Flask, client: FlaskClient, here: Place, use: Use
    ) -> None:
        path = use.path(here.ids)
        if use.rule == AUDITS:
            path += "?kind=change"  # no accesses, since this test makes some
        assert client.head(path).status_code == 401
        headers = add_account(app, "auditor").headers(here.scope, "legal")
        head = client.head(path, headers=headers)
        get = client.get(path, headers=headers, buffered=True)
        assert (head.status_code, head.data) == (200, b"")
        for name in () if use.streams else ("ETag", "Content-Length"):
            assert head.headers[name] == get.headers[name]
        assert head.headers["Sightline-Audit"] != get.headers["Sightline-Audit"]


BAD_BODIES: dict[str, tuple[bytes, str | None]] = {
    "nothing": (b"", "application/json"),
    "no type": (b"{}", None),
    "text": (b'{"mfa": true}', "text/plain"),
    "a form": (b"mfa=true", "application/x-www-form-urlencoded"),
    "an upload": (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x"),
    "a type that is none": (b"{}", "json\x00;;;"),
    "another character set": ('{"name": "é"}'.encode("utf-16"), "application/json; charset=utf-16"),
    "invalid UTF-8": (b'{"name": "\xff\xfe"}', "application/json"),
    "an overlong NUL": (b'{"name": "\xc0\x80"}', "application/json"),
    "a NUL": (b'{"name": "a\\u0000b"}', "application/json"),
    "a bare NUL": (b"\x00", "application/json"),
    "half a surrogate": (b'{"name": "\\ud800"}', "application/json"),
    "a key that is half a surrogate": (b'{"\\udfff": 1}', "application/json"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "application/json"),
    "cut short": (b'{"name": ', "application/json"),
    "too deep": (b'{"subjects":' * 5000 + b"1" + b"}" * 5000, "application/json"),
    "a number without end": (b'{"max_minutes": 1' + b"0" * 9000 + b"}", "application/json"),
    "not a number": (b'{"max_minutes": NaN}', "application/json"),
    "a list": (b"[]", "application/json"),
    "null": (b"null", "application/json"),
    "many unknown fields": (
        b"{" + b",".join(b'"%d": 1' % n for n in range(5000)) + b"}",
        "application/json",
    ),
    "a prototype": (b'{"__proto__": {"mfa": true}, "__class__": 1}', "application/json"),
}


def allowed(app: Flask, place: Place, use: Use) -> dict[str, str]:
    """The headers of somebody who may use a surface at a tenant: its admin, or staff."""
    if "admin" in use.tenant_roles:
        return place.admin.headers()
    return add_account(app, use.platform_roles[0]).headers(place.scope, INCIDENT)


@pytest.mark.parametrize("use", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("body", BAD_BODIES)
def test_senseless_body_is_answered_with_a_problem(
    app: Flask, client: FlaskClient, here: Place, use: Use, body: str
) -> None:
    data, content_type = BAD_BODIES[body]
    headers = allowed(app, here, use) | {"If-Match": "*"}
    answer = client.open(
        use.path(here.ids), method=use.method, headers=headers, data=data, content_type=content_type
    )
    assert problem(answer) == (422, "invalid")
    assert answer.get_json()["errors"]
    assert len(answer.data) < 50_000


@pytest.mark.parametrize("use", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("announced", [True, False], ids=["said beforehand", "not said"])
def test_too_large_body_is_answered_with_a_problem(
    app: Flask, client: FlaskClient, here: Place, use: Use, announced: bool
) -> None:
    body = b" " * (client.application.config["MAX_CONTENT_LENGTH"] + 1)
    chunked = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}  # as gunicorn says of them
    answer = client.open(
        use.path(here.ids),
        method=use.method,
        headers=allowed(app, here, use) | {"If-Match": "*"},
        input_stream=BytesIO(body),
        content_type="application/json",
        environ_overrides={} if announced else chunked,
    )
    assert problem(answer) == (413, "request_entity_too_large")


LOST = (
    *("/", "/admin", "/admin/", "/admin/api", "/admin/api/", "/favicon.ico", "/robots.txt"),
    *("/.env", "/.git/config", "/static/x", "/docs/../../etc/passwd", "/docs/..%2f..%2fetc"),
    *("/docs/%00", "/docs/index.html", "/docs/swagger-ui.css/", "/openapi.json/", "/healthz/x"),
    *(f"{RULES}/", f"{RULES}/nonsense", f"{RULES}/%00", f"{RULES}/%ff%fe", f"{RULES}/1;--"),
    *(f"{RULES}/{'0' * 36}", f"{RULES}/{'x' * 60_000}", f"{RULES}/%F0%9F%92%A9"),
    *(f"{RULES}/00000000-0000-0000-0000-00000000000g", f"{RULES}/{'0' * 32}"),
    *(f"{AUDITS}/../rules", f"{RULES}%2f", f"{AUDITS}/%0d%0aX-A:b"),
)


@pytest.mark.parametrize("path", LOST, ids=lambda path: path[:60])
@pytest.mark.parametrize("known", [True, False], ids=["somebody", "anybody"])
def test_unknown_path_is_answered_with_a_problem(
    client: FlaskClient, here: Place, path: str, known: bool
) -> None:
    answer = client.get(path, headers=here.admin.headers() if known else {})
    assert problem(answer) == (404, "not_found")
    assert "X-A" not in answer.headers


QUERIES = (
    *("limit=%00", "limit=1e9", "limit=-1", "limit=1&limit=2", "limit=" + "9" * 9000, "limit="),
    *("cursor=%ff", "cursor=%00", "cursor=" + "x" * 9000, "cursor=", "sort=%27", "sort="),
    *("unknown=1", "%ff=1", "%00=%00", "tenant=%00", "tenant=%ff%fe" + "x" * 300, "surface=%0a"),
    *("&".join(f"x{number}=1" for number in range(2000)), "limit[]=1", "limit.a=1", "[=]"),
)


@pytest.mark.parametrize("use", only(USES, "lists").values(), ids=only(USES, "lists"))
@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query[:30])
def test_senseless_query_is_answered_with_a_problem(
    client: FlaskClient, here: Place, use: Use, query: str
) -> None:
    answer = client.get(f"{use.rule}?{query}", headers=here.admin.headers())
    assert problem(answer) == (422, "invalid")
    assert answer.get_json()["errors"]


OFFSETS = ("2026-01-02T00:00:00+23:59", "2026-01-01T00:00:00-18:15", "2026-01-01T00:00:00Z")


@pytest.mark.parametrize("moment", OFFSETS)
def test_moment_with_any_offset_is_taken(client: FlaskClient, new: Place, moment: str) -> None:
    """PostgreSQL reads no offset beyond 15:59."""
    headers = new.admin.headers()
    for name, found in (("from", 0), ("to", 1)):
        asked = {"surface": "admin.rules.*", "actor": new.admin.email}
        query = {name: moment.replace("2026", "3026"), **asked}
        events = client.get(AUDITS, headers=headers, query_string=query)
        assert (events.status_code, events.get_json()["total"]) == (200, found)
    body = {"name": "timed", "effect": "deny", "surfaces": ["billing.*"], "starts_at": moment}
    rule = client.post(RULES, headers=headers, json=body)
    assert rule.status_code == 201
    starts_at = datetime.fromisoformat(rule.get_json()["starts_at"])
    assert starts_at == datetime.fromisoformat(moment)
    assert starts_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00"])
def test_moment_that_no_calendar_has_is_refused(
    client: FlaskClient, here: Place, moment: str
) -> None:
    for name in ("from", "to"):
        answer = client.get(AUDITS, headers=here.admin.headers(), query_string={name: moment})
        assert problem(answer) == (422, "invalid")
        assert list(answer.get_json()["errors"]) == [name]


HUGE = "x" * 200_000
HEADERS = (
    *("Accept", "Accept-Encoding", "Cookie", "Host", "If-Modified-Since", "If-None-Match"),
    *("If-Match", "Origin", "Range", "Referer", "User-Agent", "X-Forwarded-For", "X-Request-ID"),
)
VALUES = (HUGE, "", "\x01\x7f", "\xff\xfe", '"', "*", ",,,,", '"' * 999, "W/" * 999, ";=;" * 999)


@pytest.mark.parametrize("name", HEADERS)
def test_senseless_header_changes_nothing(client: FlaskClient, here: Place, name: str) -> None:
    for value in VALUES:
        for use in READS.values():
            headers = here.admin.headers() | {name: value}
            answer = client.get(use.path(here.ids), headers=headers, buffered=True)
            if answer.status_code >= 400:
                assert (name, problem(answer)) == ("Host", (400, "bad_request"))
            else:
                assert answer.status_code == 200 or (name, value) == ("If-None-Match", "*")
            assert HUGE not in str(answer.headers)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_senseless_scope_is_answered_with_a_problem(
    client: FlaskClient, here: Place, value: str
) -> None:
    for use in ALL.values():
        answer = use.call(client, here.ids, here.admin.headers(value, "legal"))
        assert problem(answer) == (422, "invalid")
        answer = use.call(client, here.ids, here.admin.headers("global", value))
        assert problem(answer) == (400, "reason_required")
        answer = use.call(client, here.ids, {"Authorization": f"Bearer slt_{value}"})
        assert problem(answer) == (401, "unauthenticated")


def test_if_match_that_names_no_version_is_refused(
    app: Flask, client: FlaskClient, here: Place
) -> None:
    for use in only(USES, "names_version").values():
        sent = allowed(app, here, use)
        for value in VALUES:
            if value != "*":
                headers = sent | {"If-Match": value}
                path = use.path(here.ids)
                answer = client.open(path, method=use.method, headers=headers, json=use.body)
                wanted = (422, "invalid") if value else (428, "precondition_required")
                assert problem(answer) == wanted, value
