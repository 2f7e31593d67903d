"""Headers of any bytes: sensible scopes and reasons are used, and all others are refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import http_sf
import pytest
from flask import Flask
from http_sf.types import BareItemType, DisplayString, Token
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account, add_account
from tests.http.routes import AUDITS, RULES, Place
from tests.http.wire import CRLF, HOST, problem, send
from tests.processes import Web
from webapp.scope.headers import MAX_HEADER, MAX_NOTE, MAX_TICKET, REASON_CODES
from webapp.text import is_line

some = settings(deadline=None, derandomize=True, max_examples=150)
# A failing example waits for a worker each time, which makes shrinking too slow.
few = settings(
    some,
    max_examples=4,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)

# A header cannot contain the end of a line.
header_bytes = st.binary(max_size=80).filter(lambda raw: not {10, 13} & set(raw))
header_text = header_bytes.map(lambda raw: raw.decode("latin-1"))
printable = st.characters(codec="utf-8").filter(is_line)
ascii_text = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
# Short, since many are drawn at once. The longest ones are among the examples.
tickets = st.text(ascii_text, min_size=1, max_size=40).filter(is_line)
notes = st.text(ascii_text | printable, min_size=1, max_size=60).filter(is_line)


@dataclass(frozen=True)
class Reason:
    """A reason, and the header in which it is sent."""

    code: str
    ticket: str | None
    note: str | None

    @property
    def header(self) -> str:
        parameters: dict[str, BareItemType] = {}
        if self.ticket is not None:
            parameters["ticket"] = self.ticket
        if self.note is not None:
            parameters["note"] = self.note if self.note.isascii() else DisplayString(self.note)
        return http_sf.ser((Token(self.code), parameters))


reasons = st.builds(
    Reason, st.sampled_from(REASON_CODES), st.none() | tickets, st.none() | notes
).filter(lambda reason: len(reason.header) <= MAX_HEADER)


@pytest.fixture(scope="module")
def engineer(app: Flask) -> Account:
    return add_account(app, "engineer")


@pytest.fixture(scope="module")
def reader(app: Flask) -> Account:
    return add_account(app, "auditor")


def access(app: Flask, account: Account, scope: str | None, reason: str | None) -> TestResponse:
    return app.test_client().get(RULES, headers=account.headers(scope, reason))


def code(answer: TestResponse) -> str:
    assert answer.content_type == "application/problem+json"
    said: str = answer.get_json()["code"]
    return said


@some
@given(
    scope=header_text
    | st.sampled_from(["global", "tenant:"]).flatmap(lambda s: header_text.map(s.__add__))
)
@example(scope="tenant:\xe9")
@example(scope="tenant:acme/../x")
@example(scope="tenant:*")
@example(scope="x" * 100_000)
def test_scope_header_of_any_bytes_opens_nothing(
    app: Flask, here: Place, engineer: Account, scope: str
) -> None:
    answer = access(app, here.admin, scope, None)
    assert (answer.status_code, code(answer)) in {(422, "invalid"), (400, "reason_required")}
    elevated = access(app, engineer, scope, INCIDENT)
    if answer.status_code == 422:
        assert (elevated.status_code, code(elevated)) == (422, "invalid")
        assert list(elevated.get_json()["errors"]) == ["Sightline-Scope"]
    elif elevated.status_code != 200:  # no tenant has this slug
        assert (elevated.status_code, code(elevated)) == (404, "not_found")
        assert receipt(elevated)


@pytest.mark.parametrize("written", ["{}", " {}", "{} ", "  {}  ", "\t{}"])
def test_spaces_around_scope_header_are_ignored_and_tabs_refused(
    app: Flask, here: Place, elsewhere: Place, engineer: Account, written: str
) -> None:
    usable = not written.startswith("\t")  # RFC 9651 allows spaces, but no tabs
    for account, scope, reason in (
        (here.admin, here.scope, None),
        (engineer, elsewhere.scope, INCIDENT),
        (engineer, "global", INCIDENT),
    ):
        answer = access(app, account, written.format(scope), reason)
        assert answer.status_code == (200 if usable else 422)


@some
@given(
    reason=header_text | st.sampled_from(REASON_CODES).flatmap(lambda c: header_text.map(c.__add__))
)
@example(reason='incident;note="\xc3\xa9"')
@example(reason='incident;note=%"%ff"')
@example(reason='incident;note=%"%C3%A9"')
@example(reason="incident;note=:aGk=:")
@example(reason="incident;note=@1")
@example(reason="incident" + ";note=?1" * 200)
@example(reason="x" * 100_000)
def test_reason_header_of_any_bytes_is_used_or_refused(
    app: Flask, engineer: Account, reason: str
) -> None:
    answer = access(app, engineer, "global", reason)
    if answer.status_code == 200:
        assert reason.strip(" ").startswith(REASON_CODES)
        assert receipt(answer)
    elif answer.status_code == 403:  # no rule here allows break-glass
        assert reason.strip(" ").startswith("break_glass")
        assert receipt(answer)
    else:
        assert (answer.status_code, code(answer)) == (400, "reason_required")
        assert not receipt(answer)


@some
@given(scope=header_bytes, reason=header_bytes)
@example(scope=b"global", reason=b"incident")
@example(scope=b"global", reason=b"incident\x00")
@example(scope=b"global\x7f", reason=b"")
@example(scope=b"global", reason=b'incident;note=%"' + b"%c3%a9" * 100 + b'"')
def test_headers_of_any_bytes_cause_no_server_error_over_http(
    web: Web, engineer: Account, scope: bytes, reason: bytes
) -> None:
    lines = (
        b"GET " + RULES.encode() + b" HTTP/1.1",
        b"Authorization: Bearer " + engineer.token.encode(),
        b"Sightline-Scope: " + scope,
        b"Sightline-Reason: " + reason,
    )
    answer = send(web, CRLF.join(lines) + CRLF + HOST + CRLF)
    assert answer.status in {200, 400, 403, 404, 422}
    if answer.status != 200:
        problem(answer)


def test_header_sent_twice_is_refused(app: Flask, engineer: Account) -> None:
    """A proxy may have read one of them: the service must not use the other."""
    name, client = ("Authorization", f"Bearer {engineer.token}"), app.test_client()
    scope, reason = ("Sightline-Scope", "global"), ("Sightline-Reason", "incident")
    twice = client.get(RULES, headers=[name, scope, scope, reason])
    assert (twice.status_code, code(twice)) == (422, "invalid")
    other = client.get(RULES, headers=[name, scope, reason, ("Sightline-Reason", "legal")])
    assert (other.status_code, code(other)) == (400, "reason_required")


ODD = [
    Reason("incident", "  INC  1  ", " a "),
    Reason("support_case", '"\\"', "\\ %00 %c3%a9"),
    Reason("fraud", "<b>';--", "login fails\N{EM DASH}für alle 漢字 \N{PILE OF POO}"),
    Reason("legal", "x" * MAX_TICKET, "x" * MAX_NOTE),
    Reason("maintenance", None, "é"),
    Reason("break_glass", ",", None),
    Reason("legal", None, None),
]


@pytest.mark.slow
@few
@example(sent=ODD)
@given(sent=st.lists(reasons, min_size=25, max_size=25))
def test_reason_is_recorded_as_it_was_sent(
    app: Flask,
    worker: None,
    elsewhere: Place,
    engineer: Account,
    reader: Account,
    sent: list[Reason],
) -> None:
    answers = [access(app, engineer, elsewhere.scope, reason.header) for reason in sent]
    for reason, answer in zip(sent, answers, strict=True):
        assert answer.status_code == (403 if reason.code == "break_glass" else 200)
    ids = [event_id for answer in answers for event_id in receipt(answer)]
    committed(app, *ids)
    client, headers = app.test_client(), reader.headers("global", "legal")
    for reason, event_id in zip(sent, ids, strict=True):
        event: Mapping[str, Any] = client.get(f"{AUDITS}/{event_id}", headers=headers).get_json()
        assert Reason(**event["reason"]) == reason
        if reason.ticket is not None:
            query = {"ticket": reason.ticket, "reason": reason.code, "limit": 200}
            found = client.get(AUDITS, headers=headers, query_string=query).get_json()["items"]
            assert str(event_id) in {item["id"] for item in found}
