"""The shapes of the log's keys on the wire."""

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
    ]
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


class LogKeysSchema(Schema):
    example = _EXAMPLE

    logs = fields.List(fields.Nested(LogSchema), required=True)
