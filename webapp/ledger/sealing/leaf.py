"""Leaves of the log: a commitment to an event's units, and its numbers in series.

A leaf tells nothing of its event to whoever has not been shown the units, and shows whoever has
that they are what was recorded. Nothing that may ever be deleted stands in a leaf.
"""

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import orjson

UNITS = ("event", "actor", "reason", "request", "decision", "excluded")
"""The parts of an event that are shown or withheld each by itself, in the order of a commitment."""

ENTRY_BYTES = 65_535
SALT_BYTES = 16
SERIES = 16
"""The most series that one event may have numbers in."""

Json = Any
"""A value of JSON: there is no narrower type for it without recursion."""

Series = tuple[str, int]
"""The label of a series, and a number in it."""

_VERSION = b"\x01"
_HEARTBEAT = "heartbeat"
_EVENT_FIELDS = (
    "http_status",
    "id",
    "kind",
    "occurred_at",
    "origin",
    "outcome",
    "repeats",
    "rows",
    "scope",
    "surface",
)
_DECISION_FIELDS = ("effect", "grant_ids", "policy_version", "rule_ids")
_WHOLE = {*_EVENT_FIELDS, *UNITS, "salt", "terms", "via"} - {"event", "excluded"}
"""The fields of an event: each is in a unit, or is the salt of all."""
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_NUMBER = 2**53 - 1


class LeafError(ValueError):
    """An event, or bytes, that no leaf can be made from."""


@dataclass(frozen=True)
class Unit:
    """A part of an event, with the salt that keeps its digest from being guessed."""

    salt: str
    value: Json


@dataclass(frozen=True)
class EventLeaf:
    """What the log says of one event."""

    commitment: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class HeartbeatLeaf:
    """What the log says where nothing has happened for a while: that it goes on."""

    at: datetime
    number: int


def canonical_json(value: Json) -> bytes:
    """Return RFC 8785's form of a value whose keys are ASCII and whose numbers are integers."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def units_of(event: Mapping[str, Json]) -> dict[str, Unit]:
    """Return the units of an event, which is the JSON object of its canonical bytes.

    Raises `LeafError` where a field would be in none of them: a commitment is to all of the event.
    """
    try:
        return _units_of(event)
    except (KeyError, TypeError, ValueError) as error:
        raise LeafError("not the fields of an event") from error


def _units_of(event: Mapping[str, Json]) -> dict[str, Unit]:
    if event.keys() != _WHOLE:
        raise LeafError("not the fields of an event")
    secret = decode_bytes(event["salt"], SALT_BYTES)
    decision = dict(event["decision"])
    excluded = decision.pop("excluded")
    if decision.keys() != set(_DECISION_FIELDS):
        raise LeafError("not the fields of a decision")
    values = {
        "event": {name: event[name] for name in _EVENT_FIELDS},
        "actor": {**event["actor"], "via": event["via"]},
        "reason": event["reason"],
        "request": {**event["request"], "terms": event["terms"]},
        "decision": decision,
        "excluded": excluded,
    }
    return {name: Unit(unit_salt(secret, name), values[name]) for name in UNITS}


def unit_salt(secret: bytes, name: str) -> str:
    """Return the salt of one unit, which tells nothing of the event's own or of another's."""
    return encode_bytes(hmac.digest(secret, name.encode(), "sha256")[:SALT_BYTES])


def unit_digest(name: str, unit: Unit) -> str:
    """Return what stands for a unit in a commitment, and in its place where it is withheld."""
    return encode_bytes(sha256(canonical_json([unit.salt, name, unit.value])).digest())


def commitment(digests: Mapping[str, str]) -> str:
    """Return the commitment to all units, from the digest of each by name."""
    if digests.keys() != set(UNITS):
        raise LeafError("not the digests of all units")
    return encode_bytes(sha256(canonical_json([digests[name] for name in UNITS])).digest())


def commitment_of(event: Mapping[str, Json]) -> str:
    """Return the commitment to an event, which is the JSON object of its canonical bytes."""
    return commitment({name: unit_digest(name, unit) for name, unit in units_of(event).items()})


def event_leaf(commitment: str, series: Sequence[Series]) -> bytes:
    """Return the bytes of an event's leaf; raises `LeafError` for values that no leaf has."""
    return _dump({"commitment": commitment, "series": [[*each] for each in series]})


def heartbeat_leaf(at: datetime, number: int) -> bytes:
    """Return the bytes of a heartbeat's leaf."""
    return _dump({_HEARTBEAT: _format_moment(at), "series": [[_HEARTBEAT, number]]})


def parse_leaf(data: bytes) -> EventLeaf | HeartbeatLeaf:
    """Parse the bytes of a leaf; raises `LeafError` for any but those of the functions above."""
    if len(data) > ENTRY_BYTES or data[:1] != _VERSION:
        raise LeafError("not a leaf of this version")
    try:
        return _parse(data[1:])
    except (ValueError, TypeError, KeyError) as error:
        raise LeafError("not a leaf") from error


def _dump(document: Json) -> bytes:
    data = _VERSION + canonical_json(document)
    parse_leaf(data)
    return data


def _parse(data: bytes) -> EventLeaf | HeartbeatLeaf:
    document = orjson.loads(data)
    if canonical_json(document) != data:
        raise LeafError("not the canonical form of a leaf")
    series = tuple((label, number) for label, number in document["series"])
    if not 1 <= len(series) <= SERIES or not all(map(_is_series, series)):
        raise LeafError("not series of a leaf")
    if len(dict(series)) < len(series):
        raise LeafError("two numbers in one series")
    match document:
        case {"heartbeat": str(moment), **rest} if rest.keys() == {"series"}:
            [(label, number)] = series
            if label != _HEARTBEAT:
                raise LeafError("not the series of a heartbeat")
            return HeartbeatLeaf(_parse_moment(moment), number)
        case {"commitment": str(digest), **rest} if rest.keys() == {"series"}:
            decode_bytes(digest, sha256().digest_size)
            if _HEARTBEAT in dict(series):
                raise LeafError("not the series of an event")
            return EventLeaf(digest, series)
        case _:
            raise LeafError("not the fields of a leaf")


def _is_series(each: tuple[object, object]) -> bool:
    match each:
        case (str(label), int(number)) if not isinstance(number, bool):
            return bool(_LABEL.fullmatch(label)) and 1 <= number <= _MAX_NUMBER
        case _:
            return False


def _format_moment(at: datetime) -> str:
    if at.utcoffset() != timedelta(0):
        raise LeafError("not a moment in UTC")
    text: str = orjson.loads(orjson.dumps(at, option=orjson.OPT_UTC_Z))
    return text


def _parse_moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    if _format_moment(moment) != text:
        raise LeafError("not the form of a moment")
    return moment


def encode_bytes(data: bytes) -> str:
    """Encode bytes as Sightline's JSON has them: URL-safe Base64 without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_bytes(text: str, length: int) -> bytes:
    """Decode the same in its one form; raises `LeafError` for another length too."""
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (Base64Error, ValueError) as error:
        raise LeafError("not URL-safe Base64") from error
    if len(data) != length or encode_bytes(data) != text:
        raise LeafError("not URL-safe Base64 of this length")
    return data
