"""A request from its first moment to its answer: its id, its line in the log, its numbers, and the
headers that every answer has.

Flask's own methods are overridden, instead of hooks: that is before the first `before_request` and
after the last `after_request`, in whatever order the parts of the application were set up, and the
least that Flask can be asked.
"""

import re
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from flask import Request, Response
from flask.typing import ResponseReturnValue
from uuid_utils import uuid7

from webapp.context import current_request, current_state, environ_key
from webapp.db.scopes import GlobalScope, IdentityScope, PrincipalScope, TenantScope
from webapp.lean import LeanFlask, add_header
from webapp.observability import metrics
from webapp.observability.lines import LineWriter

REQUEST_ID_HEADER = "X-Request-ID"
_REQUEST_ID_KEY = environ_key(REQUEST_ID_HEADER)
UNMATCHED = "unmatched"

_REQUEST_ID = re.compile(r"(?!slt_)[A-Za-z0-9._-]{1,128}")
"""What we take over from the client. Never what accesses like a token: it would be logged."""

_SCOPE_KINDS: dict[type, str] = {
    TenantScope: "tenant",
    GlobalScope: "global",
    IdentityScope: "identity",
    PrincipalScope: "principal",
}


class Application(LeanFlask):
    """One whose requests have an id, and each its line and its numbers."""

    write_line: LineWriter

    def preprocess_request(self) -> ResponseReturnValue | None:
        state = current_state()
        state["started"] = perf_counter()
        state["request_id"] = _request_id(current_request().environ.get(_REQUEST_ID_KEY))
        return super().preprocess_request()

    def process_response(self, response: Response) -> Response:
        response = super().process_response(response)
        _finish(self.write_line, current_request(), current_state(), response)
        return response


def _request_id(given: str | None) -> str:
    return given if given and _REQUEST_ID.fullmatch(given) else str(uuid7())


def _finish(
    write_line: LineWriter, asked: Request, known: Mapping[str, Any], response: Response
) -> None:
    seconds = perf_counter() - known["started"]
    _set_headers(response, asked.path, known["request_id"])
    route = asked.url_rule.rule if asked.url_rule else UNMATCHED
    metrics.count_request(asked.method, route, response.status_code, seconds)
    principal, surface = known.get("principal"), known.get("surface")
    write_line(
        "request",
        method=asked.method,
        route=route,
        status=response.status_code,
        duration_ms=_milliseconds(seconds),
        request_id=known["request_id"],
        principal=principal.id if principal else None,
        scope=_SCOPE_KINDS.get(type(known.get("scope"))),
        surface=surface.name if surface else None,
        **_waited(known),
    )


def _waited(known: Mapping[str, Any]) -> Mapping[str, float]:
    """How long the request was held until its accesses were recorded, where it made any."""
    waited = known.get("audit_waited")
    return {} if waited is None else {"audit_ms": _milliseconds(waited)}


def _milliseconds(seconds: float) -> float:
    """To two places, as `round` has it, which goes by way of the decimal digits."""
    return int(seconds * 100_000 + 0.5) / 100


def _set_headers(response: Response, path: str, request_id: str) -> None:
    headers = response.headers
    add_header(headers, REQUEST_ID_HEADER, request_id)
    add_header(headers, "X-Content-Type-Options", "nosniff")
    if path.startswith("/admin"):
        add_header(headers, "Cache-Control", "private, no-cache")
