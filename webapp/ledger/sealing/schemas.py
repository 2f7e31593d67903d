"""The shapes of the log's keys on the wire."""

from typing import ClassVar

from marshmallow import fields

from webapp.http.schema import Fields, Schema

_EXAMPLE = {
    "logs": [
        {
            "number": 1,
            "origin": "sightline.example/log",
            "path": "/log",
            "state": "open",
            "size": 1_204_113,
            "keys": ["sightline.example/log+0dd2f79b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"],
        }
    ],
    "signers": [
        {
            "fingerprint": "84ead308c1874986",
            "process": "web",
            "public_key": "xYtc1_Z4Yt-_X63nW9OnKm1--WRZd0zb-F49ftvrlyI",
            "registered_at": "2026-11-30T10:07:15+00:00",
            "retired_at": None,
        }
    ],
}

_FIELDS: Fields = {
    "origin": "The log's name, which its checkpoints begin with.",
    "path": "Where its checkpoint and its tiles are.",
    "state": "`open`, or `closed` where another log has taken its place.",
    "size": "The number of its entries.",
    "keys": "The keys that have signed it, as c2sp.org/signed-note has them.",
}


class LogSchema(Schema):
    descriptions = _FIELDS

    number = fields.Integer(required=True)
    origin = fields.String(required=True)
    path = fields.String(required=True)
    state = fields.String(required=True)
    size = fields.Integer(required=True)
    keys = fields.List(fields.String(), required=True)


class EventSignerSchema(Schema):
    descriptions: ClassVar[Fields] = {
        "fingerprint": "The first 8 bytes of the key's SHA-256, in hex: signatures name it.",
        "process": "`web`, `worker` or `commands`.",
        "public_key": "Of Ed25519, in base64url.",
        "retired_at": "Since when nothing more is committed under it; null where it is in use.",
    }

    fingerprint = fields.String(required=True)
    process = fields.String(required=True)
    public_key = fields.String(required=True)
    registered_at = fields.DateTime(required=True)
    retired_at = fields.DateTime(required=True, allow_none=True)


class LogKeysSchema(Schema):
    example = _EXAMPLE

    logs = fields.List(fields.Nested(LogSchema), required=True)
    signers = fields.List(fields.Nested(EventSignerSchema), required=True)
