"""A request from its first moment to its answer: its id, its line in the log, its numbers, and the
headers that every answer has.

Flask's signals are used, not its hooks: they come before the first `before_request` and after the
last `after_request`, in whatever order the parts of the application were set up.
"""

import re
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from flask import (
    Flask,
    Response,
    g,
    request,
    request_finished,
    request_started,
    request_tearing_down,
)
from flask.globals import request_ctx
from structlog.contextvars import bind_contextvars, clear_contextvars
from structlog.typing import FilteringBoundLogger
from uuid_utils.compat import uuid7

from webapp.observability import metrics
from webapp.scope.scopes import GlobalScope, IdentityScope, LedgerScope, TenantScope

REQUEST_ID_HEADER = "X-Request-ID"
UNMATCHED = "unmatched"

_REQUEST_ID = re.compile(r"(?!slt_)[A-Za-z0-9._-]{1,128}")
"""What we take over from the client. Never what looks like a token: it would be logged."""

_SCOPE_KINDS: dict[type, str] = {
    TenantScope: "tenant",
    GlobalScope: "global",
    IdentityScope: "identity",
    LedgerScope: "ledger",
}


def init_app(app: Flask, log: FilteringBoundLogger) -> None:
    app.extensions["request_log"] = log
    request_started.connect(_begin, app)
    request_finished.connect(_finish, app)
    request_tearing_down.connect(_end, app)


def _begin(_: Flask, **__: object) -> None:
    g.started = perf_counter()
    g.request_id = request_id = _request_id(request.headers.get(REQUEST_ID_HEADER))
    clear_contextvars()
    bind_contextvars(request_id=request_id)


def _request_id(given: str | None) -> str:
    return given if given and _REQUEST_ID.fullmatch(given) else str(uuid7())


def _finish(app: Flask, response: Response, **_: object) -> None:
    # One way through each proxy instead of ten, since this runs for each request.
    known, asked = vars(g), request_ctx.request
    seconds = perf_counter() - known["started"]
    _set_headers(response, asked.path, known["request_id"])
    route = asked.url_rule.rule if asked.url_rule else UNMATCHED
    metrics.count_request(asked.method, route, response.status_code, seconds)
    principal, surface = known.get("principal"), known.get("surface")
    log: FilteringBoundLogger = app.extensions["request_log"]
    log.info(
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


def _end(_: Flask, **__: object) -> None:
    """What the thread logs next is not about this request."""
    clear_contextvars()


def _set_headers(response: Response, path: str, request_id: str) -> None:
    headers = response.headers
    headers[REQUEST_ID_HEADER] = request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    if path.startswith("/admin"):
        headers.setdefault("Cache-Control", "private, no-cache")
