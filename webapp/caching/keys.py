"""Cache keys: one for each function, visibility and set of arguments, and never the same for two.

Arguments become canonical JSON in which everything but strings, integers, booleans and null is an
array that names its own type, so that no value can be written like one of another type.
"""

from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from enum import Enum
from functools import cache
from hashlib import blake2b
from operator import attrgetter
from typing import Any
from uuid import UUID

import orjson

Canonical = str | int | bool | list[Any] | None


def value_key(function: str, visibility: str, arguments: tuple[object, ...]) -> str:
    """The name that a result is stored under; raises `TypeError` for an argument of another kind
    than `canonical` knows."""
    content = orjson.dumps([function, visibility, *map(canonical, arguments)])
    return f"value:{function}:{blake2b(content, digest_size=16).hexdigest()}"


def function_of(key: str) -> str:
    """The function that a value key belongs to."""
    return key.split(":")[1]


def canonical(value: object) -> Canonical:
    """`value` for JSON, if it is a string, integer, boolean, None, UUID, aware datetime, enum
    member, or a frozen dataclass or tuple of them; raises `TypeError` for anything else."""
    if value is None or type(value) is str:  # as most are
        return value
    encode = _ENCODERS.get(type(value))
    return encode(value) if encode is not None else _other(value)


def _same(value: Any) -> Canonical:
    scalar: Canonical = value
    return scalar


def _integer(value: int) -> Canonical:
    return value if -(2**63) <= value < 2**63 else ["integer", str(value)]


def _instant(value: datetime) -> Canonical:
    if value.utcoffset() is None:
        raise TypeError("a naive datetime is no cache argument: its instant is unknown")
    return ["datetime", value.isoformat()]


def _tuple(value: tuple[object, ...]) -> Canonical:
    return ["tuple", *map(canonical, value)]


_ENCODERS: dict[type, Callable[[Any], Canonical]] = {
    bool: _same,
    int: _integer,
    UUID: lambda value: ["uuid", value.hex],
    datetime: _instant,
    tuple: _tuple,
}


def _other(value: Any) -> Canonical:
    kind: Any = type(value)
    if isinstance(value, Enum):
        return ["enum", _name(kind), value.name]
    if _is_frozen_dataclass(kind):
        return [_name(kind), *[canonical(part) for part in _parts_of(kind)(value)]]
    raise TypeError(f"a {kind.__qualname__} is no cache argument")


@cache
def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@cache
def _is_frozen_dataclass(kind: Any) -> bool:
    parameters = getattr(kind, "__dataclass_params__", None)
    return parameters is not None and parameters.frozen


@cache
def _parts_of(kind: Any) -> Callable[[Any], tuple[object, ...]]:
    names = [field.name for field in fields(kind)]
    if len(names) < 2:  # `attrgetter` makes a tuple of two or more only
        return lambda value: tuple(getattr(value, name) for name in names)
    return attrgetter(*names)
