"""The codec of a cached function's results, made of a schema and the schema's fingerprint.

A release that changes a schema or its dataclass changes the fingerprint. While two releases run
side by side, the values that one dumps are misses for the other.
"""

from dataclasses import fields, is_dataclass
from enum import Enum as EnumType
from functools import cached_property
from hashlib import blake2b
from typing import Any

import marshmallow as ma
import orjson


class Codec:
    """Dumps values to JSON and loads them, through a schema. None is a value too."""

    def __init__(self, schema: ma.Schema, *, many: bool) -> None:
        self._schema = schema
        self._many = many

    @cached_property
    def fingerprint(self) -> bytes:
        return fingerprint(self._schema, many=self._many)

    def dumps(self, value: Any) -> bytes:
        return orjson.dumps(None if value is None else self._schema.dump(value, many=self._many))

    def loads(self, payload: bytes) -> Any:
        data = orjson.loads(payload)
        if data is None:
            return None
        loaded = self._schema.load(data, many=self._many)
        return tuple(loaded) if self._many else loaded


def fingerprint(schema: ma.Schema, *, many: bool) -> bytes:
    """Return a hash of a schema's definition: 16 bytes, the same wherever the same code runs."""
    described = {"many": many, "schema": _schema(schema, frozenset())}
    return blake2b(orjson.dumps(described), digest_size=16, person=b"schema").digest()


def _schema(schema: ma.Schema, above: frozenset[type]) -> Any:
    kind = type(schema)
    if kind in above:  # a schema that contains itself: an outer level has described it
        return _name(kind)
    inner = above | {kind}
    return {
        "name": _name(kind),
        "unknown": str(schema.unknown),
        "model": _model(getattr(schema, "model", None)),
        "fields": [[name, _field(field, inner)] for name, field in sorted(schema.fields.items())],
    }


def _field(field: ma.fields.Field[Any], above: frozenset[type]) -> Any:
    described: dict[str, Any] = {
        "type": _name(type(field)),
        "attribute": field.attribute,
        "data_key": field.data_key,
        "required": field.required,
        "allow_none": field.allow_none,
        "only": [field.load_only, field.dump_only],
    }
    match field:
        case ma.fields.Nested():
            described["nested"] = [field.many, _schema(field.schema, above)]
        case ma.fields.List():
            described["items"] = _field(field.inner, above)
        case ma.fields.Tuple():
            described["items"] = [_field(item, above) for item in field.tuple_fields]
        case ma.fields.Mapping():
            parts = (field.key_field, field.value_field)
            described["items"] = [part and _field(part, above) for part in parts]
        case ma.fields.Enum():
            described["enum"] = _enum(field.enum)
            described["by_value"] = bool(field.by_value)
        case ma.fields.DateTime():
            described["format"] = field.format
    return described


def _model(model: Any) -> Any:
    if model is None:
        return None
    if not is_dataclass(model):
        return _name(model)
    return [_name(model), [[field.name, _annotation(field.type)] for field in fields(model)]]


def _annotation(annotation: Any) -> str:
    return _name(annotation) if isinstance(annotation, type) else str(annotation)


def _enum(kind: type[EnumType]) -> Any:
    return [_name(kind), [[member.name, str(member.value)] for member in kind]]


def _name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
