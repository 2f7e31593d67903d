"""How tasks are written for the broker: JSON by orjson."""

import json
from typing import Any

import orjson
from kombu.serialization import register

SERIALIZER = "orjson"
"""JSON like kombu's own, without kombu's encoding of Python objects, which no task here has."""


def _dump(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        return json.dumps(value)


def _load(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:  # the same; what is no JSON at all is none for the other either
        return json.loads(text)


register(SERIALIZER, _dump, _load, content_type="application/x-orjson", content_encoding="utf-8")
