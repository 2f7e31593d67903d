"""What every HTTP surface shares: blueprints and what they parse, the base schema, cursors, entity
tags, conditional answers."""

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, wraps
from hashlib import blake2b
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar
from uuid import UUID

import flask_smorest
import marshmallow as ma
import orjson
from flask import Request, Response
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import HTTPException

from webapp.context import current_request, environ_key
from webapp.extensions import current_settings
from webapp.http.errors import Invalid, PreconditionRequired, Stale
from webapp.lean import LeanResponse

MAX_LIMIT = 200
_MAC_BYTES = 16
_QUERIES = 1024
_IF_NONE_MATCH = environ_key("If-None-Match")
_IS_JSON = ("Content-Type", "application/json")

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V", bound=Callable[..., Any])


Fields = Mapping[str, str]
"""Descriptions of a schema's fields, by their names in Python."""

PAGE_FIELDS: Fields = {
    "next_cursor": "Send it as `cursor` for the next page; null on the last one.",
    "total": "How many there are on all pages.",
}
"""What every page of a list says."""


class Schema(ma.Schema):
    """Loads into the frozen dataclass named by `model`, on the wire and out of the cache alike.

    Unknown fields are refused. A schema without a `model` loads into a dict.
    """

    model: ClassVar[type[Any] | None] = None
    example: ClassVar[Any] = None
    """A body of this schema, for the API's description."""
    descriptions: ClassVar[Fields] = {}
    """What the API's description says of the fields; of a base's too, where this says nothing."""

    class Meta:
        unknown = ma.RAISE

    @ma.post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        return self.model(**data) if self.model else data


class Parser(FlaskParser):
    """webargs', but for three things: a body that is not JSON is `Invalid` like any other bad one,
    unknown arguments of a query are refused as the schema says, and queries are remembered, since
    loading even an empty one takes longer than all the rest of a cached answer."""

    DEFAULT_UNKNOWN_BY_LOCATION: dict[str, str | None] = {
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        "query": None,
    }

    def __init__(self) -> None:
        super().__init__()
        self._queries = lru_cache(_QUERIES)(self._parse_query)

    def parse(self, argmap: Any, req: Request | None = None, **options: Any) -> Any:
        # What loads into a frozen value means the same each time, and can be shared.
        if options["location"] == "query" and getattr(argmap, "model", None) is not None:
            return self._queries(argmap, current_request().query_string)
        return super().parse(argmap, req, **options)

    def _parse_query(self, schema: ma.Schema, _: bytes) -> Any:
        return super().parse(schema, location="query")

    def _raw_load_json(self, req: Request) -> Any:
        try:
            if req.is_json:
                return orjson.loads(_read_body(req))
        except orjson.JSONDecodeError:
            pass
        problem = "must be JSON, and say so in Content-Type"
        raise Invalid(f"The body {problem}.", {"json": [problem]})


def _read_body(req: Request) -> bytes:
    try:
        body = req.get_data()
        # A body that did not say its length has been cut where the limit is; asking for more tells.
        req.stream.read(1)
    except HTTPException:
        raise
    except Exception as error:  # the web server's own, for a body that is no series of chunks
        problem = "could not be read"
        raise Invalid(f"The body {problem}.", {"json": [problem]}) from error
    return body


_parser = Parser()


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc]  # flask-smorest ships no types
    """flask-smorest's, of which we take the description. What its decorators do in each request is
    done here with less, and typed."""

    ARGUMENTS_PARSER = _parser

    def route(self, rule: str, **options: Any) -> Callable[[V], V]:
        decorate: Callable[[V], V] = super().route(rule, **options)
        return decorate

    def arguments(
        self, schema: type[ma.Schema], *, location: str = "json"
    ) -> Callable[[Callable[Concatenate[Any, P], R]], Callable[P, R]]:
        """Give the view what `schema` loads, before what its route has."""
        loading = schema()
        describe = super().arguments(loading, location=location)

        def decorate(view: Callable[Concatenate[Any, P], R]) -> Callable[P, R]:
            @wraps(view)
            def parsing(*args: P.args, **kwargs: P.kwargs) -> R:
                return view(_parser.parse(loading, location=location), *args, **kwargs)

            parsing._apidoc = describe(view)._apidoc  # type: ignore[attr-defined]  # for `route`
            return parsing

        return decorate

    def response(
        self,
        status_code: int,
        schema: type[ma.Schema] | dict[str, Any] | None = None,
        **options: Any,
    ) -> Callable[[V], V]:
        """Describe the answer, which the view makes itself."""
        describe = super().response(status_code, schema, **options)

        def decorate(view: V) -> V:
            view._apidoc = describe(view)._apidoc  # type: ignore[attr-defined]  # for `route`
            return view

        return decorate


class TupleOf(ma.fields.List[Any]):
    """A list on the wire, a tuple in the frozen dataclass."""

    def _deserialize(self, *args: Any, **kwargs: Any) -> Any:
        return tuple(super()._deserialize(*args, **kwargs))


class Text(ma.fields.String):
    """A string that PostgreSQL can hold: no NUL, no lone surrogate."""

    def _deserialize(self, *args: Any, **kwargs: Any) -> Any:
        value = super()._deserialize(*args, **kwargs)
        if "\x00" in value:
            raise ma.ValidationError("Must not contain NUL.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ma.ValidationError("Must be valid Unicode.") from error
        return value


class FullMatch(ma.validate.Regexp):
    """A pattern that the whole text matches, as clients read it in the API's description: Python's
    own `$` allows a newline after it, and JSON Schema's does not."""

    def __call__(self, value: Any) -> Any:
        if self.regex.fullmatch(value) is None:
            raise ma.ValidationError(self.error)
        return value


class Instant(ma.fields.AwareDateTime):
    """A moment in UTC: an offset beyond 15:59, which Python has, PostgreSQL does not read."""

    def _deserialize(self, *args: Any, **kwargs: Any) -> datetime:
        try:
            return super()._deserialize(*args, **kwargs).astimezone(UTC)
        except OverflowError as error:
            raise ma.ValidationError("Must be between the years 1 and 9999 in UTC.") from error


class PageQuerySchema(Schema):
    """The part that all lists have; each adds its sort keys and filters."""

    descriptions: ClassVar[Fields] = {
        "limit": "How many to show at most.",
        "cursor": "A `next_cursor` of the same list, filters, sort and scope.",
    }

    limit = ma.fields.Integer(load_default=50, validate=ma.validate.Range(1, MAX_LIMIT))
    cursor = ma.fields.String(load_default=None, validate=ma.validate.Length(1, 4096))


def encode_cursor(position: Sequence[Any], listing: str) -> str:
    """An opaque cursor for the row at `position` (its sort values, its id last).

    `listing` names the list, sort, filters and visibility that it continues: a cursor is refused
    anywhere else.
    """
    payload = orjson.dumps(list(position), option=orjson.OPT_UTC_Z)
    return base64.urlsafe_b64encode(_cursor_mac(payload, listing) + payload).decode().rstrip("=")


def decode_cursor(cursor: str, listing: str) -> tuple[Any, ...]:
    """The position inside a cursor; raises `Invalid` unless it was made here for this list."""
    try:
        raw = base64.b64decode(
            cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        )
    except (ValueError, binascii.Error):
        raw = b""
    mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _cursor_mac(payload, listing)):
        problem = "is not a cursor of this list"
        raise Invalid(f"The cursor {problem}.", {"cursor": [problem]})
    return tuple(orjson.loads(payload))


def _cursor_mac(payload: bytes, listing: str) -> bytes:
    key = blake2b(current_settings().secret_key.encode(), person=b"sightline-cursor").digest()
    keyed = blake2b(digest_size=_MAC_BYTES, key=key)
    keyed.update(len(payload).to_bytes(4, "big") + payload + listing.encode())
    return keyed.digest()


def json_response(body: bytes, etag: str | None = None, status: int = 200) -> Response:
    """JSON as it is; 304 without a body when the client that reads has its entity tag already."""
    if etag is not None and _client_has(etag, current_request()):
        return LeanResponse.unchanged([("ETag", etag)])
    headers = [_IS_JSON] if etag is None else [_IS_JSON, ("ETag", etag)]
    if status == 200:
        return LeanResponse.ready(body, headers)
    return LeanResponse(body, status=status, headers=headers, direct_passthrough=True)


def respond(
    schema: ma.Schema, value: Any, *, etag: str | None = None, status: int = 200
) -> Response:
    """`value` as JSON, by default with the entity tag of its bytes."""
    body = orjson.dumps(schema.dump(value))
    return json_response(body, etag or etag_of(body), status)


def etag_of(body: bytes) -> str:
    return f'"{blake2b(body, digest_size=16).hexdigest()}"'


def row_etag(row_id: UUID, version: int) -> str:
    return f'"{row_id.hex}.{version}"'


def required_version(row_id: UUID) -> Callable[[int], None]:
    """Check the client's `If-Match` against a row's version.

    Raises `PreconditionRequired` at once when the header is missing; the function returned raises
    `Stale` unless the header names the version it is given.
    """
    asked = current_request()
    if not asked.headers.get("If-Match"):
        raise PreconditionRequired("Send If-Match with the ETag that you last saw.")
    tags = asked.if_match

    def check(version: int) -> None:
        if not tags.contains(row_etag(row_id, version).strip('"')):
            raise Stale("It was changed since; read it again.")

    return check


def _client_has(etag: str, asked: Request) -> bool:
    header = asked.environ.get(_IF_NONE_MATCH)
    if header is None or asked.method not in ("GET", "HEAD"):
        return False
    return header == etag or asked.if_none_match.contains_weak(etag.strip('"'))
