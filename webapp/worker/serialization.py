"""The serializer of tasks: JSON, written and read by orjson."""

import json
from typing import Any

import orjson
from kombu.serialization import register

SERIALIZER = "orjson"
"""JSON, without kombu's encoding of Python objects: no task here has any."""


def _dump(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        return json.dumps(value)


def _load(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:  # as above; what is not JSON at all is refused here too
        return json.loads(text)


register(SERIALIZER, _dump, _load, content_type="application/x-orjson", content_encoding="utf-8")
