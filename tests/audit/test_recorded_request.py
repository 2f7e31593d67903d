"""What a client says of itself is recorded without loss, bounded, and as text that shows itself."""

from urllib.parse import unquote_to_bytes

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account
from webapp.audit.recorder import MAX_USER_AGENT
from webapp.text import is_line, percent_encoded

PATH = "/admin/api/rules"


@given(st.binary(max_size=60) | st.text(st.characters(codec="utf-8")).map(str.encode))
def test_percent_encoded_bytes_can_be_read_back(raw: bytes) -> None:
    shown = percent_encoded(raw)
    assert is_line(shown) or not shown.strip()
    assert unquote_to_bytes(shown) == raw


@pytest.mark.parametrize(
    ("sent", "recorded"),
    [
        (b"curl/8.5.0", "curl/8.5.0"),
        ("caf\u00e9/1 \U0001f3ab".encode(), "caf\u00e9/1 \U0001f3ab"),
        (b"App%20Name/1", "App%2520Name/1"),
        (b"caf\xe9", "caf%E9"),
        (b"a\x1b[31mb", "a%1B[31mb"),
        ("a\u202eb".encode(), "a%E2%80%AEb"),
        (b"x" * 9999, "x" * (MAX_USER_AGENT - 1) + "\u2026"),
    ],
)
def test_user_agent_and_id_of_the_client_are_recorded(
    app: Flask, worker: None, client: FlaskClient, engineer: Account, sent: bytes, recorded: str
) -> None:
    headers = engineer.headers("global", INCIDENT)
    headers |= {"User-Agent": sent.decode("latin-1"), "X-Request-ID": "theirs"}
    answer = client.get(PATH, headers=headers)
    (event,) = committed(app, *receipt(answer))
    assert event["request"]["user_agent"] == recorded
    assert event["request"]["id"] == answer.headers["X-Request-ID"] != "theirs"
    assert event["request"]["x_request_id"] == "theirs"


def test_event_of_a_request_without_an_id_has_none(
    app: Flask, worker: None, client: FlaskClient, engineer: Account
) -> None:
    answer = client.get(PATH, headers=engineer.headers("global", INCIDENT))
    (event,) = committed(app, *receipt(answer))
    assert event["request"]["x_request_id"] is None
