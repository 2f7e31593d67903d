"""Cache keys: a different one for each function, visibility and tuple of arguments.

Arguments become canonical JSON. Strings, integers, booleans and null stay what they are; any other
value becomes an array that names its type. So two values of different types never have the same
form.
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
    """Return the name that a result is stored under.

    Raises `TypeError` for an argument that `canonical` refuses.
    """
    content = orjson.dumps([function, visibility, *map(canonical, arguments)])
    return f"value:{function}:{blake2b(content, digest_size=16).hexdigest()}"


def function_of(key: str) -> str:
    """Return the name of the function that a value key belongs to."""
    return key.split(":")[1]


def canonical(value: object) -> Canonical:
    """Return the canonical form of `value` for JSON.

    It takes a string, integer, boolean, None, UUID, aware datetime or enum member, and a frozen
    dataclass or tuple of these; raises `TypeError` for anything else.
    """
    if value is None or type(value) is str:  # most values are
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
