"""Blueprints, and the parser of queries and bodies that views are given."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import unquote_to_bytes

import flask_smorest
import marshmallow as ma
import orjson
from flask import Request, request
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import HTTPException

from webapp.http.errors import MAX_FIELD_NAME, Invalid
from webapp.http.json_bounds import MAX_DEPTH, MAX_FIELDS, has_too_many_fields, is_too_deep
from webapp.http.state import current_state

MAX_TERM = 320
"""Characters of each parameter that events record; only a cursor may have more."""

QUERIES = 1024
"""The number of parsed queries that a process caches."""

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V", bound=Callable[..., Any])


class Parser(FlaskParser):
    """webargs' parser with Sightline's errors, and a cache of parsed queries.

    A body that is not JSON raises `Invalid`, like any other bad body. Unknown arguments of a query
    are refused as the schema says. A query that loads into a frozen value is cached by its text:
    loading even an empty query takes longer than the rest of a cached answer.
    """

    DEFAULT_UNKNOWN_BY_LOCATION: dict[str, str | None] = {
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        "query": None,
    }

    def __init__(self) -> None:
        super().__init__()
        self._queries = lru_cache(QUERIES)(self._parse_query)

    def parse(self, argmap: Any, req: Request | None = None, **options: Any) -> Any:
        if options["location"] == "query" and getattr(argmap, "model", None) is not None:
            loaded, current_state().terms = self._queries(argmap, request.query_string)
            return loaded
        return super().parse(argmap, req, **options)

    def _parse_query(self, schema: ma.Schema, query: bytes) -> tuple[Any, dict[str, str] | None]:
        return super().parse(schema, location="query"), terms_of(read_query(query))

    def load_querystring(self, req: Request, schema: ma.Schema) -> Any:
        return read_query(req.query_string)

    def load_json(self, req: Request, schema: ma.Schema) -> Any:
        try:
            body = orjson.loads(_read_body(req)) if req.is_json else _NO_JSON
        except orjson.JSONDecodeError:
            body = _NO_JSON
        if body is _NO_JSON:
            raise _invalid("must be JSON, and say so in Content-Type")
        if is_too_deep(body):
            raise _invalid(f"has lists or objects nested more than {MAX_DEPTH} levels deep")
        if has_too_many_fields(body):
            raise _invalid(f"has an object with more than {MAX_FIELDS} fields")
        return body


_NO_JSON = object()


def read_query(query: bytes) -> dict[str, str]:
    """The parameters of a query, each once. Raises `Invalid` for what has another reading too."""
    found: dict[str, str] = {}
    for part in filter(None, query.split(b"&")):
        name, _, value = (_decoded(text) for text in part.partition(b"="))
        if name in found:
            raise _invalid_query(name, "Is given more than once.")
        found[name] = value
    return found


def terms_of(parameters: Mapping[str, str]) -> dict[str, str] | None:
    """What a query looks for, as events record it: sorted, and each value bounded."""
    return {name: _bounded(value) for name, value in sorted(parameters.items())} or None


def _bounded(value: str) -> str:
    return value if len(value) <= MAX_TERM else f"{value[:MAX_TERM]}…"


def _decoded(text: bytes) -> str:
    if _BAD_ESCAPE.search(text) is None:
        try:
            return unquote_to_bytes(text.replace(b"+", b" ")).decode()
        except UnicodeDecodeError:
            pass
    raise _invalid_query("query", "Must be UTF-8, with `%` and two hexadecimal digits as escapes.")


_BAD_ESCAPE = re.compile(rb"%(?![0-9a-fA-F]{2})")


def _invalid_query(name: str, problem: str) -> Invalid:
    return Invalid("The query cannot be read.", {name[:MAX_FIELD_NAME]: [problem]})


def _invalid(problem: str) -> Invalid:
    return Invalid(f"The body {problem}.", {"json": [problem]})


def _read_body(req: Request) -> bytes:
    try:
        body = req.get_data()
        # A body without a length is cut at the limit. Reading on raises the 413.
        req.stream.read(1)
    except HTTPException:
        raise
    except Exception as error:  # the web server raises it for malformed chunks
        raise _invalid("could not be read") from error
    return body


def takes_query(view: Callable[P, R]) -> Callable[P, R]:
    """Mark a view as one that reads the query of its request."""
    view.__takes_query__ = True  # type: ignore[attr-defined]  # read by `refuse_query`
    return view


def refuse_query(view: Callable[..., Any]) -> None:
    """Raise `Invalid` where the request has a query and the view takes none."""
    if request.query_string and not hasattr(view, "__takes_query__"):
        name = next(iter(read_query(request.query_string)), "query")
        raise _invalid_query(name, "Unknown: this address takes no parameters.")


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc]  # flask-smorest ships no types
    """flask-smorest's blueprint, with Sightline's parser."""

    ARGUMENTS_PARSER = Parser()

    def route(self, rule: str, **options: Any) -> Callable[[V], V]:
        decorate: Callable[[V], V] = super().route(rule, **options)
        return decorate

    def arguments(
        self, schema: type[ma.Schema], *, location: str = "json", **options: Any
    ) -> Callable[[Callable[Concatenate[Any, P], R]], Callable[P, R]]:
        """Give the view what `schema` loads, before the arguments of its route."""
        decorate: Callable[[Callable[Concatenate[Any, P], R]], Callable[P, R]]
        decorate = super().arguments(schema, location=location, **options)

        def with_arguments(view: Callable[Concatenate[Any, P], R]) -> Callable[P, R]:
            given = decorate(view)
            return takes_query(given) if location == "query" else given

        return with_arguments

    def response(
        self,
        status_code: int,
        schema: type[ma.Schema] | dict[str, Any] | None = None,
        **options: Any,
    ) -> Callable[[V], V]:
        """Describe the answer, which the view itself writes."""
        decorate: Callable[[V], V] = super().response(status_code, schema, **options)
        return decorate

    def doc(self, **described: Any) -> Callable[[V], V]:
        """Describe more of the operation, as OpenAPI has it."""
        decorate: Callable[[V], V] = super().doc(**described)
        return decorate

    def alt_response(
        self, status_code: int, *, schema: type[ma.Schema], **options: Any
    ) -> Callable[[V], V]:
        """Describe another answer, which the view itself writes."""
        decorate: Callable[[V], V] = super().alt_response(status_code, schema=schema, **options)
        return decorate
