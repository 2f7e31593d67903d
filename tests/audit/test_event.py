"""Tests of the event's canonical bytes: they are RFC 8785's, and no other bytes are loaded."""

from base64 import urlsafe_b64decode
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tests.audit.events import as_json, make_event
from tests.audit.strategies import events
from webapp.audit.event import (
    AuditEvent,
    EventError,
    EventRequest,
    dump_event,
    load_event,
)
from webapp.audit.operation import change, origin

WHOLE_SECOND = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@given(events)
def test_event_equals_itself_after_dump_and_load(event: AuditEvent) -> None:
    assert load_event(dump_event(event)) == event


@given(events)
def test_canonical_bytes_are_those_of_rfc_8785(event: AuditEvent) -> None:
    assert dump_event(event) == rfc8785.dumps(as_json(asdict(event)))


@pytest.mark.parametrize("text", ['\b\t\n\f\r"\\/', "\x00\x01\x1f\x7f\x80", "é\u2028😀\ufeff"])
def test_texts_are_escaped_as_in_rfc_8785(text: str) -> None:
    event = make_event(
        request=EventRequest(id=text, ip=text, method=text, path=text, user_agent=text)
    )
    assert dump_event(event) == rfc8785.dumps(as_json(asdict(event)))


@given(events, events)
def test_different_events_have_different_bytes(one: AuditEvent, other: AuditEvent) -> None:
    assert (dump_event(one) == dump_event(other)) == (one == other)


def test_each_event_has_a_salt_of_its_own() -> None:
    salts = {change("rules.create", origin("CLI", "flask rules import")).salt for _ in range(3)}
    assert len(salts) == 3
    assert {len(urlsafe_b64decode(salt + "==")) for salt in salts} == {16}


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"7", b'"text"', b"[]", b"{}", b"\xff", b"[" * 5000, b"{}x"],
)
def test_load_refuses_bytes_that_are_no_event(data: bytes) -> None:
    with pytest.raises(EventError):
        load_event(data)


@given(st.binary())
def test_load_raises_no_other_error_for_any_bytes(data: bytes) -> None:
    with pytest.raises(EventError):
        load_event(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(events, st.data())
def test_load_raises_no_other_error_for_any_field_value(
    event: AuditEvent, data: st.DataObject
) -> None:
    """Each event that is loaded has the same canonical bytes again."""
    raw = orjson.loads(dump_event(event))
    where = data.draw(st.sampled_from([raw, *(v for v in raw.values() if isinstance(v, dict))]))
    where[data.draw(st.sampled_from(sorted(where)))] = data.draw(json_values)
    try:
        dumped = rfc8785.dumps(raw)
    except (ValueError, rfc8785.CanonicalizationError):
        return
    try:
        loaded = load_event(dumped)
    except EventError:
        return
    assert dump_event(loaded) == dumped


def _set(raw: dict[str, Any], path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        raw = raw[parent]
    raw[name] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", "not-a-uuid"),
        ("id", 7),
        ("occurred_at", "2026-01-02T03:04:05"),
        ("occurred_at", "2026-01-02T04:04:05+01:00"),
        ("occurred_at", "0001-01-01T00:00:00+14:00"),
        ("occurred_at", 0),
        ("kind", "other"),
        ("kind", ["access"]),
        ("surface", None),
        ("surface", ["a"]),
        ("surface", {"a": 1}),
        ("surface", "a\x00b"),
        ("actor", None),
        ("actor.email", 7),
        ("actor.roles", "ab"),
        ("actor.roles", [7]),
        ("actor.token_id", ""),
        ("actor.more", "than there is"),
        ("reason", {}),
        ("reason", []),
        ("reason.ticket", 7),
        ("reason.note", "\x00"),
        ("scope.kind", "identity"),
        ("scope.tenant", True),
        ("decision.effect", "served"),
        ("decision.rule_ids", None),
        ("decision.rule_ids", ["x"]),
        ("outcome", "allowed"),
        ("http_status", "200"),
        ("http_status", 200.5),
        ("http_status", True),
        ("rows", -1),
        ("rows", 2**53),
        ("salt", None),
        ("salt", ""),
        ("salt", "A" * 21),
        ("salt", "A" * 23),
        ("salt", "A" * 21 + "B"),
        ("salt", "A" * 20 + "+A"),
        ("repeats", None),
        ("request.path", None),
        ("request.more", "than there is"),
        ("origin", None),
        ("origin", {}),
        ("origin.journal", 7),
        ("origin.seq", "1"),
        ("origin.seq", -1),
        ("origin.seq", None),
        ("more", "than there is"),
    ],
)
def test_load_refuses_a_field_of_another_type(path: str, value: Any) -> None:
    raw = orjson.loads(dump_event(make_event()))
    _set(raw, path, value)
    with pytest.raises(EventError):
        load_event(orjson.dumps(raw, option=orjson.OPT_SORT_KEYS))


@pytest.mark.parametrize(
    "path", ["id", "actor", "actor.email", "reason", "rows", "salt", "request.ip", "origin"]
)
def test_load_refuses_an_event_without_a_field(path: str) -> None:
    raw = orjson.loads(dump_event(make_event()))
    *parents, name = path.split(".")
    part = raw
    for parent in parents:
        part = part[parent]
    del part[name]
    with pytest.raises(EventError):
        load_event(orjson.dumps(raw, option=orjson.OPT_SORT_KEYS))


@pytest.mark.parametrize(
    "write",
    [
        lambda data: b" " + data,
        lambda data: data + b"\n",
        lambda data: data.replace(b":", b": ", 1),
        lambda data: data.replace(b"accesses", b"\\u0061ccesses", 1),
        lambda data: orjson.dumps(dict(reversed(orjson.loads(data).items()))),
        lambda data: data.replace(b'"rows":3', b'"rows":3.0'),
        lambda data: data.replace(b'"rows":3', b'"rows":3,"rows":3'),
        lambda data: data.replace(b":05Z", b":05.000000Z"),
        lambda data: data.replace(b"a", b"A", 1),
    ],
)
def test_load_refuses_bytes_that_are_not_canonical(write: Any) -> None:
    data = dump_event(make_event(occurred_at=WHOLE_SECOND))
    assert load_event(data)
    assert write(data) != data
    with pytest.raises(EventError):
        load_event(write(data))


def test_load_refuses_a_moment_that_is_not_in_utc() -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    event = make_event(occurred_at=WHOLE_SECOND)
    in_another_zone = replace(event, occurred_at=WHOLE_SECOND.astimezone(east))
    with pytest.raises(EventError):
        load_event(dump_event(in_another_zone))
