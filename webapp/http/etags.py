"""Entity tags, conditional requests, and JSON answers that carry a tag."""

import re
from collections.abc import Callable
from hashlib import blake2b
from uuid import UUID

from flask import Response, request
from werkzeug.datastructures import ETags

from webapp.http.errors import Invalid, PreconditionRequired, Stale

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"\*|{_TAG}(?:\s*,\s*{_TAG})*")


def json_response(body: bytes, etag: str, status: int = 200) -> Response:
    """Answer with JSON, or with 304 if the client reads and has this entity tag already."""
    if "If-None-Match" in request.headers and _client_has(etag):
        return Response(status=304, headers={"ETag": etag})
    response = Response(body, status, content_type="application/json")
    response.headers.add("ETag", etag)
    return response


def etag_of(body: bytes) -> str:
    """The strong entity tag of a body, in its quotes."""
    return f'"{blake2b(body, digest_size=16).hexdigest()}"'


def row_etag(row_id: UUID, version: int) -> str:
    """The strong entity tag of a row's version, in its quotes."""
    return f'"{row_id.hex}.{version}"'


def required_tag() -> Callable[[str], None]:
    """Check the client's `If-Match` against the tag of what is there.

    Raises `PreconditionRequired` at once when the header is missing; the function returned raises
    `Stale` unless the header names the tag that it is given, in its quotes.
    """
    _require_condition()
    tags = _sent_tags()

    def check(etag: str) -> None:
        if not tags.contains(etag.strip('"')):
            raise Stale("It was changed since; read it again.")

    return check


def required_version(row_id: UUID) -> Callable[[int], None]:
    """Check the client's `If-Match` against a row's version.

    Raises `PreconditionRequired` at once when the header is missing; the function returned raises
    `Stale` unless the header names the version it is given.
    """
    _require_condition()
    return sent_version(row_id)


def sent_version(row_id: UUID) -> Callable[[int], None]:
    """Check the client's `If-Match` against a row's version, if the client sends one.

    The function returned raises `Stale` where the header names only other versions.
    """
    if "If-Match" not in request.headers:
        return lambda version: None
    tags = _sent_tags()

    def check(version: int) -> None:
        if not tags.contains(row_etag(row_id, version).strip('"')):
            raise Stale("It was changed since; read it again.")

    return check


def _require_condition() -> None:
    if not request.headers.get("If-Match"):
        raise PreconditionRequired("Send If-Match with the ETag that you last saw.")


def _sent_tags() -> ETags:
    if not _TAGS.fullmatch(request.headers["If-Match"].strip()):
        problem = 'must be `*` or an ETag in its quotes, as in "0123abcd.1"'
        raise Invalid(f"The header If-Match {problem}.", {"If-Match": [problem]})
    return request.if_match


def _client_has(etag: str) -> bool:
    if request.method not in ("GET", "HEAD"):
        return False
    return request.if_none_match.contains_weak(etag.strip('"'))
