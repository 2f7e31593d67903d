"""A request from its first moment to its answer: its id, its line in the log, its numbers, and the
headers that every answer has.

Flask's signals are used, not its hooks: they come before the first `before_request` and after the
last `after_request`, in whatever order the parts of the application were set up.
"""

import re
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from flask import Flask, Response, request_finished, request_started
from flask.globals import app_ctx, request_ctx
from uuid_utils import uuid7

from webapp.observability import metrics
from webapp.observability.logs import WriteLine
from webapp.scope.scopes import GlobalScope, IdentityScope, LedgerScope, TenantScope

REQUEST_ID_HEADER = "X-Request-ID"
UNMATCHED = "unmatched"
_LOG = "sightline.request_log"

_REQUEST_ID = re.compile(r"(?!slt_)[A-Za-z0-9._-]{1,128}")
"""What we take over from the client. Never what looks like a token: it would be logged."""

_SCOPE_KINDS: dict[type, str] = {
    TenantScope: "tenant",
    GlobalScope: "global",
    IdentityScope: "identity",
    LedgerScope: "ledger",
}


def init_app(app: Flask, write_line: WriteLine) -> None:
    app.extensions[_LOG] = write_line
    request_started.connect(_begin, app)
    request_finished.connect(_finish, app)


def _begin(_: Flask, **__: object) -> None:
    state = app_ctx.g
    state.started = perf_counter()
    state.request_id = _request_id(request_ctx.request.headers.get(REQUEST_ID_HEADER))


def _request_id(given: str | None) -> str:
    return given if given and _REQUEST_ID.fullmatch(given) else str(uuid7())


def _finish(app: Flask, response: Response, **_: object) -> None:
    # One way through each proxy instead of ten, since this runs for each request.
    known, asked = vars(app_ctx.g), request_ctx.request
    seconds = perf_counter() - known["started"]
    _set_headers(response, asked.path, known["request_id"])
    route = asked.url_rule.rule if asked.url_rule else UNMATCHED
    metrics.count_request(asked.method, route, response.status_code, seconds)
    principal, surface = known.get("principal"), known.get("surface")
    write_line: WriteLine = app.extensions[_LOG]
    write_line(
        "request",
        method=asked.method,
        route=route,
        status=response.status_code,
        duration_ms=round(seconds * 1000, 2),
        request_id=known["request_id"],
        principal=str(principal.id) if principal else None,
        scope=_SCOPE_KINDS.get(type(known.get("scope"))),
        surface=surface.name if surface else None,
        **_waited(known),
    )


def _waited(known: Mapping[str, Any]) -> Mapping[str, float]:
    """How long the request was held until its looks were recorded, where it made any."""
    waited = known.get("audit_waited")
    return {} if waited is None else {"audit_ms": round(waited * 1000, 2)}


def _set_headers(response: Response, path: str, request_id: str) -> None:
    headers = response.headers
    headers.add(REQUEST_ID_HEADER, request_id)
    headers.add("X-Content-Type-Options", "nosniff")
    headers.add("Referrer-Policy", "no-referrer")
    if path.startswith("/admin"):
        headers.setdefault("Cache-Control", "private, no-cache")
