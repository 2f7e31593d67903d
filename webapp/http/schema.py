"""The base schema, and the fields that every feature's schemas share."""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sized
from datetime import UTC, datetime
from typing import Any, ClassVar

import marshmallow as ma

from webapp.text import LINE, is_line

Fields = Mapping[str, str]
"""Descriptions of a schema's fields, by their names in Python."""

PAGE_FIELDS: Fields = {
    "next_cursor": "Send it as `cursor` for the next page; null on the last one.",
    "total": "How many there are on all pages.",
}
"""Descriptions of the fields that every page of a list has."""


_DIGITS = re.compile(r"0|[1-9][0-9]{0,8}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _is_address(value: str) -> None:
    try:
        address = ipaddress.ip_address(value)
    except ValueError as error:
        raise ma.ValidationError("Must be an IP address.") from error
    if getattr(address, "scope_id", None) is not None:
        raise ma.ValidationError("Must have no zone.")


ADDRESS: list[Callable[[str], object]] = [ma.validate.Length(2, 64), _is_address]
"""The validators of an IP address."""


class Schema(ma.Schema):
    """A schema that loads into the frozen dataclass `model`, from a request or from the cache.

    Unknown fields are refused. A schema without a `model` loads into a dict.
    """

    model: ClassVar[type[Any] | None] = None
    example: ClassVar[Any] = None
    """An example body, for the API's description."""
    descriptions: ClassVar[Fields] = {}
    """Descriptions of fields. A field that has none here has that of a base class."""

    class Meta:
        unknown = ma.RAISE

    @ma.post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        return self.model(**data) if self.model else data


class TupleOf(ma.fields.List[Any]):
    """A list on the wire, a tuple in the frozen dataclass.

    A list of a wrong length is refused before its items are looked at.
    """

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, list):
            _check_length(self, value)
        return tuple(super()._deserialize(value, *args, **kwargs))


class MapOf(ma.fields.Dict):
    """An object with any keys. One of a wrong length is refused before its values are looked at."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, dict):
            _check_length(self, value)
        return super()._deserialize(value, *args, **kwargs)  # type: ignore[no-untyped-call]  # marshmallow left it untyped


def _check_length(field: ma.fields.Field[Any], value: Sized) -> None:
    for validator in field.validators:
        if isinstance(validator, ma.validate.Length):
            validator(value)


class Text(ma.fields.String):
    """A text that a person gives: one line of printable characters."""

    def _deserialize(self, *args: Any, **kwargs: Any) -> Any:
        value = super()._deserialize(*args, **kwargs)
        if not is_line(value):
            raise ma.ValidationError(f"Must be {LINE}.")
        return value


class Whole(ma.fields.Integer):
    """A whole number of a body, and no text or boolean that could stand for it."""

    def _validated(self, value: Any) -> int:
        if type(value) is not int:
            raise self.make_error("invalid")
        return super()._validated(value)


class Digits(ma.fields.Integer):
    """A whole number of a query: ASCII digits and nothing else."""

    default_error_messages = {"invalid": "Must be a whole number, in digits."}

    def _validated(self, value: Any) -> int:
        if not isinstance(value, str) or _DIGITS.fullmatch(value) is None:
            raise self.make_error("invalid")
        return super()._validated(value)


class Flag(ma.fields.Boolean):
    """A boolean of a body, and no text or number that could stand for it."""

    default_error_messages = {"invalid": "Must be true or false."}

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class FlagText(ma.fields.Boolean):
    """A boolean of a query: `true` or `false`."""

    default_error_messages = {"invalid": "Must be true or false."}

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if value not in ("true", "false"):
            raise self.make_error("invalid")
        return bool(value == "true")


class Id(ma.fields.UUID):
    """A UUID of a body, in its usual form."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str) or _UUID.fullmatch(value) is None:
            raise self.make_error("invalid_uuid")
        return super()._deserialize(value, *args, **kwargs)


class FullMatch(ma.validate.Regexp):
    """A pattern that the whole text must match, as JSON Schema reads it.

    Python's own `$` allows a newline after it, and JSON Schema's does not.
    """

    def __call__(self, value: Any) -> Any:
        if self.regex.fullmatch(value) is None:
            raise ma.ValidationError(self.error)
        return value


class Instant(ma.fields.AwareDateTime):
    """A moment in UTC. PostgreSQL does not read offsets beyond 15:59, which Python allows."""

    default_error_messages = dict.fromkeys(
        ("invalid", "invalid_awareness"),
        "Must be a moment with its offset, as in 2026-11-30T12:00:00Z.",
    )

    def _deserialize(self, *args: Any, **kwargs: Any) -> datetime:
        try:
            return super()._deserialize(*args, **kwargs).astimezone(UTC)
        except OverflowError as error:
            raise ma.ValidationError("Must be between the years 1 and 9999 in UTC.") from error
