"""How a surface's view answers: each way counts the rows that the answer shows.

`make lint-scope` refuses a surface whose view answers in no way of this module.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import marshmallow as ma
import orjson
from flask import Response

from webapp.audit import recorder
from webapp.caching import Cached
from webapp.http.etags import etag_of, json_response
from webapp.http.state import current_state

PageT = TypeVar("PageT", bound="Page")


class Page(Protocol):
    """A page of a list."""

    @property
    def items(self) -> Sequence[Any]: ...


def respond(
    schema: ma.Schema, value: Any, *, rows: int | None, etag: str | None = None, status: int = 200
) -> Response:
    """`value` as JSON, by default with the entity tag of its bytes.

    `rows` is the number of rows shown; `None` where the answer shows none.
    """
    return respond_json(orjson.dumps(schema.dump(value)), rows=rows, etag=etag, status=status)


def respond_page(schema: ma.Schema, page: Page) -> Response:
    """A page of a list as JSON."""
    return respond(schema, page, rows=len(page.items))


def respond_cached(cached: Cached[PageT]) -> Response:
    """A cached page of a list, byte for byte."""
    return respond_json(cached.json, rows=len(cached.value.items), etag=cached.etag)


def respond_json(
    body: bytes, *, rows: int | None, etag: str | None = None, status: int = 200
) -> Response:
    """JSON that has been written already."""
    state = current_state()
    if rows is not None and state.surface is not None and state.accesses:
        recorder.count_rows(state.surface.name, rows)
    return json_response(body, etag or etag_of(body), status)


def respond_empty() -> Response:
    """204: nothing is shown."""
    return Response(status=204)
