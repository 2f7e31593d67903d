"""Answers of surfaces: each function counts the rows that its answer shows.

`make lint-scope` refuses a surface whose view answers without a function of this module.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import marshmallow as ma
import orjson
from flask import Response, request, stream_with_context

from webapp.audit import recorder
from webapp.caching import Cached
from webapp.extensions import db
from webapp.http.etags import etag_of, json_response
from webapp.http.state import current_state
from webapp.scope.surface import current_scope, current_surface

BEHIND_HEADER = "Sightline-Behind"

PageT = TypeVar("PageT", bound="Page")


class Page(Protocol):
    """A page of a list."""

    @property
    def items(self) -> Sequence[Any]: ...


def respond(
    schema: ma.Schema, value: Any, *, rows: int | None, etag: str | None = None, status: int = 200
) -> Response:
    """Answer with `value` as JSON; its entity tag is by default that of the bytes.

    `rows` is the number of rows that the body shows; `None` where rows are not counted.
    """
    return respond_json(orjson.dumps(schema.dump(value)), rows=rows, etag=etag, status=status)


def tag_of(schema: ma.Schema, value: Any) -> str:
    """The entity tag that `respond` gives `value` by default."""
    return etag_of(orjson.dumps(schema.dump(value)))


def respond_page(schema: ma.Schema, page: Page) -> Response:
    """Answer with a page of a list as JSON."""
    return respond(schema, page, rows=len(page.items))


def respond_read(schema: ma.Schema, page: PageT, behind: int | None) -> Response:
    """Answer with a page of a list that may be a replica's, and say how far that is behind.

    `behind` is in seconds; `None` where the primary has answered.
    """
    if behind is None:
        return respond_page(schema, page)
    body = orjson.dumps({**schema.dump(page), "behind": behind})
    response = respond_json(body, rows=len(page.items))
    response.headers[BEHIND_HEADER] = str(behind)
    return response


def respond_cached(cached: Cached[PageT]) -> Response:
    """Answer with a cached page of a list, byte for byte."""
    return respond_json(cached.json, rows=len(cached.value.items), etag=cached.etag)


def respond_json(
    body: bytes, *, rows: int | None, etag: str | None = None, status: int = 200
) -> Response:
    """Answer with JSON that is written already."""
    state, response = current_state(), json_response(body, etag or etag_of(body), status)
    if rows is not None and state.surface is not None and state.accesses:
        # Neither an answer to HEAD nor 304 shows what it is about.
        shown = 0 if request.method == "HEAD" or response.status_code == 304 else rows
        recorder.count_rows(state.surface.name, shown)
    return response


def respond_file(body: bytes, *, rows: int | None, content_type: str, name: str) -> Response:
    """Answer with a file, which a browser saves under this name."""
    response = respond_json(body, rows=rows)
    if response.status_code != 304:
        response.content_type = content_type
        response.headers.add("Content-Disposition", "attachment", filename=name)
    return response


def respond_stream(
    parts: Iterable[bytes], rows: Callable[[], int], *, content_type: str, name: str
) -> Response:
    """Answer with a file that is made while it is sent, in the scope of the surface.

    `rows` says how many rows the parts have shown so far. The surface has to declare `streams`.
    """
    scope = current_scope()

    def in_scope() -> Iterator[bytes]:
        with db.scoped(scope):
            yield from parts

    if request.method == "HEAD":
        recorder.count_rows(current_surface().name, 0)
        response = Response(content_type=content_type)
    else:
        streamed = recorder.stream(rows)
        body = stream_with_context(streamed.follow(in_scope()))
        response = Response(body, content_type=content_type)
    response.headers.add("Content-Disposition", "attachment", filename=name)
    return response


def respond_empty() -> Response:
    """Answer 204, without a body."""
    return Response(status=204)
