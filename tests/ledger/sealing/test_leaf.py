"""Leaves: what a commitment covers, its form, and what no leaf is."""

import json
from base64 import urlsafe_b64encode
from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from hmac import digest as hmac_digest
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from webapp.ledger.sealing.leaf import (
    ENTRY_BYTES,
    UNITS,
    EventLeaf,
    HeartbeatLeaf,
    LeafError,
    canonical_json,
    commitment,
    commitment_of,
    decode_bytes,
    encode_bytes,
    event_leaf,
    heartbeat_leaf,
    parse_leaf,
    unit_digest,
    unit_salt,
    units_of,
)

SALT = encode_bytes(bytes(range(16)))
EVENT: dict[str, Any] = {
    "actor": {"email": "eve@example.com", "id": "1", "mfa": True, "roles": [], "token_id": None},
    "decision": {
        "effect": "allowed",
        "excluded": {"count": 2, "digest": "ab"},
        "grant_ids": [],
        "policy_version": 7,
        "rule_ids": ["r"],
    },
    "http_status": 200,
    "id": "0190",
    "kind": "access",
    "occurred_at": "2026-11-30T11:12:13.000001Z",
    "origin": {"journal": "j", "seq": 1},
    "outcome": "served",
    "reason": {"code": "incident", "note": "größer ✓", "ticket": "INC-1"},
    "repeats": 1,
    "request": {"id": "q", "ip": None, "method": "GET", "path": "/", "user_agent": None},
    "rows": None,
    "salt": SALT,
    "scope": {"kind": "global", "tenant": None, "tenant_id": None},
    "surface": "admin.rules.list",
    "terms": {"q": "x"},
    "via": None,
}
DIGEST = encode_bytes(bytes(32))

ASCII = st.text(st.characters(max_codepoint=127), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ASCII, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_canonical_json_is_what_the_rfc_8785_package_writes(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


def written_out(document: Any) -> str:
    """SHA-256 of RFC 8785, URL-safe Base64: what an outsider computes."""
    return urlsafe_b64encode(sha256(rfc8785.dumps(document)).digest()).rstrip(b"=").decode()


def test_commitment_is_what_an_outsider_computes_from_the_words_of_the_documentation() -> None:
    decision = {name: v for name, v in EVENT["decision"].items() if name != "excluded"}
    moved = ("actor", "decision", "reason", "request", "salt", "terms", "via")
    values = {
        "event": {name: value for name, value in EVENT.items() if name not in moved},
        "actor": {**EVENT["actor"], "via": None},
        "reason": EVENT["reason"],
        "request": {**EVENT["request"], "terms": {"q": "x"}},
        "decision": decision,
        "excluded": EVENT["decision"]["excluded"],
    }
    digests = []
    for name, value in values.items():
        salt = hmac_digest(bytes(range(16)), name.encode(), "sha256")[:16]
        text = urlsafe_b64encode(salt).rstrip(b"=").decode()
        assert (units_of(EVENT)[name].salt, units_of(EVENT)[name].value) == (text, value)
        digests.append(written_out([text, name, value]))
    assert commitment_of(EVENT) == written_out(digests)
    assert list(values) == list(UNITS)


def paths_of(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value in a document that holds no others."""
    match value:
        case dict() if value:
            return [found for key in value for found in paths_of(value[key], (*path, key))]
        case list() if value:
            return [found for n, each in enumerate(value) for found in paths_of(each, (*path, n))]
        case _:
            return [path]


@pytest.mark.parametrize("path", paths_of(EVENT), ids=lambda path: ".".join(map(str, path)))
def test_every_value_of_an_event_changes_its_commitment(path: tuple[Any, ...]) -> None:
    changed = deepcopy(EVENT)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = encode_bytes(bytes(16)) if path == ("salt",) else "something else"
    assert commitment_of(changed) != commitment_of(EVENT)


@pytest.mark.parametrize("name", [name for name in UNITS if name != "event"])
def test_withheld_unit_leaves_the_commitment_and_the_other_units_as_they_are(name: str) -> None:
    units = units_of(EVENT)
    withheld = unit_digest(name, units.pop(name))
    digests = {name: withheld} | {each: unit_digest(each, unit) for each, unit in units.items()}
    assert commitment(digests) == commitment_of(EVENT)


def test_salts_of_units_differ_and_none_is_the_events_own() -> None:
    salts = {unit_salt(bytes(16), name) for name in UNITS}
    assert len(salts) == len(UNITS)
    assert encode_bytes(bytes(16)) not in salts


@pytest.mark.parametrize(
    "change",
    [
        {"salt": "short"},
        {"salt": SALT[:-1] + "-"},
        {"salt": SALT + "=="},
        {"salt": None},
        {"unknown": 1},
        {"decision": None},
        {"decision": {**EVENT["decision"], "unknown": 1}},
        {"decision": {"effect": "allowed"}},
        {"actor": None},
        {"request": []},
    ],
    ids=str,
)
def test_event_with_a_field_that_no_unit_has_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(LeafError):
        units_of({**EVENT, **change})


@pytest.mark.parametrize("field", EVENT)
def test_event_without_a_field_is_refused(field: str) -> None:
    with pytest.raises(LeafError):
        units_of({name: value for name, value in EVENT.items() if name != field})


def test_leaf_of_an_event_is_its_version_and_its_document() -> None:
    leaf = event_leaf(DIGEST, [("tenant", 3), ("all", 1)])
    assert leaf[:1] == b"\x01"
    assert json.loads(leaf[1:]) == {"commitment": DIGEST, "series": [["tenant", 3], ["all", 1]]}
    assert leaf[1:] == rfc8785.dumps(json.loads(leaf[1:]))
    assert parse_leaf(leaf) == EventLeaf(DIGEST, (("tenant", 3), ("all", 1)))


@pytest.mark.parametrize("microsecond", [0, 1, 120_000])
def test_leaf_of_a_heartbeat_is_its_moment_and_its_number(microsecond: int) -> None:
    at = datetime(2026, 11, 30, 11, 12, 13, microsecond, UTC)
    leaf = heartbeat_leaf(at, 5)
    document = orjson.loads(leaf[1:])
    assert document == {
        "heartbeat": at.isoformat().replace("+00:00", "Z"),
        "series": [["heartbeat", 5]],
    }
    assert parse_leaf(leaf) == HeartbeatLeaf(at, 5)


@pytest.mark.parametrize("zone", [None, timezone(timedelta(hours=1))])
def test_heartbeat_has_a_moment_in_utc(zone: timezone | None) -> None:
    with pytest.raises(LeafError):
        heartbeat_leaf(datetime(2026, 11, 30, tzinfo=zone), 1)


@pytest.mark.parametrize(
    "series",
    [
        [],
        [("all", 0)],
        [("all", -1)],
        [("all", 2**53)],
        [("", 1)],
        [("a b", 1)],
        [("a" * 65, 1)],
        [("all", 1), ("all", 2)],
        [("heartbeat", 1)],
        [(f"s{n}", 1) for n in range(17)],
        [("all", True)],
        [("all", 1.0)],
        [("all", "1")],
        [("all",)],
    ],
    ids=str,
)
def test_series_that_no_leaf_has_are_refused(series: list[Any]) -> None:
    with pytest.raises(LeafError):
        event_leaf(DIGEST, series)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x00" + event_leaf(DIGEST, [("all", 1)])[1:],
        event_leaf(DIGEST, [("all", 1)]) + b" ",
        event_leaf(DIGEST, [("all", 1)]).replace(b":", b": ", 1),
        event_leaf(DIGEST, [("all", 1)]).replace(b'"all"', b'"\\u0061ll"'),
        event_leaf(DIGEST, [("all", 1)]).replace(DIGEST.encode(), DIGEST[:-1].encode()),
        event_leaf(DIGEST, [("all", 1)]).replace(DIGEST.encode(), DIGEST[:-1].encode() + b"B"),
        b'\x01{"commitment":"x"}',
        b'\x01{"more":1,"series":[["all",1]]}',
        b"\x01[]",
        b"\x01null",
        b"\x01" + b"[" * 60_000,
        b"\x01" + b"1" * ENTRY_BYTES,
        b'\x01{"heartbeat":"2026-11-30T11:12:13+00:00","series":[["heartbeat",1]]}',
        b'\x01{"heartbeat":"2026-11-30","series":[["heartbeat",1]]}',
        b'\x01{"heartbeat":"2026-11-30T11:12:13Z","series":[["all",1]]}',
        b'\x01{"heartbeat":"2026-11-30T11:12:13Z","series":[["heartbeat",1],["all",1]]}',
    ],
    ids=lambda data: data[:60],
)
def test_bytes_that_are_no_leaf_are_refused(data: bytes) -> None:
    with pytest.raises(LeafError):
        parse_leaf(data)


@given(st.binary(max_size=200))
def test_bytes_of_anybody_are_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(LeafError):
        parse_leaf(b"\x01" + data)


@given(st.binary(max_size=70))
def test_bytes_have_one_text(data: bytes) -> None:
    text = encode_bytes(data)
    assert decode_bytes(text, len(data)) == data
    for wrong in (text + "=", text + "A", " " + text, text[:-1]):
        if wrong != text:
            with pytest.raises(LeafError):
                decode_bytes(wrong, len(data))
