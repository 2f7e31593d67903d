"""Each request's id, its line in the log, its metrics, and the headers that every answer has.

`init_app` comes first in `create_app`: so its `before_request` runs before all others, and its
`after_request` after all others.
"""

import atexit
import logging
import re
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from time import perf_counter

from flask import Flask, Response, request
from prometheus_client import Counter
from uuid_utils import uuid7

from webapp.db.scopes import GlobalScope, IdentityScope, PrincipalScope, TenantScope
from webapp.http.state import RequestState, begin_request, current_state
from webapp.observability import logs, metrics
from webapp.settings import Settings

REQUEST_ID_HEADER = "X-Request-ID"
UNMATCHED = "unmatched"
WAITING_MAX = 10_000
"""Lines that may wait for a log reader that stalls; later ones are dropped and counted."""

_REQUEST_ID = re.compile(r"(?!slt_)[A-Za-z0-9._-]{1,128}")
"""The ids that a client may choose. Never what resembles a token: the id is logged."""

_SCOPE_KINDS: dict[type, str] = {
    TenantScope: "tenant",
    GlobalScope: "global",
    IdentityScope: "identity",
    PrincipalScope: "principal",
}

DROPPED = Counter(
    "sightline_log_lines_dropped_total", "Lines of requests that nobody read in time."
)

logger = logging.getLogger("sightline.request")


def init_app(app: Flask) -> None:
    """Set up by `app.extensions["settings"]`; lines are written at once, in the request's
    thread."""
    settings: Settings = app.extensions["settings"]
    logger.handlers[:] = [logs.request_handler(settings.env)]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    app.before_request(_begin)
    app.after_request(_finish)


def write_in_background() -> None:
    """Leave the writing of lines to a thread of this process, so that no request waits for it.

    What is left is written when the process ends. Call it after the last fork.
    """
    queue: Queue[logging.LogRecord] = Queue(WAITING_MAX)
    listener = QueueListener(queue, *logger.handlers)
    logger.handlers[:] = [_DroppingHandler(queue)]
    listener.start()
    atexit.register(_stop, listener)


def _stop(listener: QueueListener) -> None:
    with suppress(Full):  # whoever reads the log has stalled, and the rest has no reader
        listener.stop()


class _DroppingHandler(QueueHandler):
    """Hands lines to a thread; a line for which there is no room is dropped and counted."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # its fields are values, and nothing is formatted before the thread writes

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            super().enqueue(record)
        except Full:
            DROPPED.inc()


def _begin() -> None:
    begin_request(_request_id(request.headers.get(REQUEST_ID_HEADER)))


def _request_id(given: str | None) -> str:
    return given if given and _REQUEST_ID.fullmatch(given) else str(uuid7())


def _finish(response: Response) -> Response:
    state = current_state()
    seconds = perf_counter() - state.started
    response.headers[REQUEST_ID_HEADER] = state.request_id or ""
    response.headers["X-Content-Type-Options"] = "nosniff"
    route = request.url_rule.rule if request.url_rule else UNMATCHED
    metrics.count_request(request.method, route, response.status_code, seconds)
    logger.info("request", extra={"fields": _fields(state, route, response.status_code, seconds)})
    return response


def _fields(state: RequestState, route: str, status: int, seconds: float) -> dict[str, object]:
    fields: dict[str, object] = {
        "method": request.method,
        "route": route,
        "status": status,
        "duration_ms": _milliseconds(seconds),
        "request_id": state.request_id,
        "principal": state.principal.id if state.principal else None,
        "scope": _SCOPE_KINDS.get(type(state.scope)),
        "surface": state.surface.name if state.surface else None,
        "event": "request",
        "level": "info",
        "timestamp": datetime.now(UTC),
    }
    if state.waited:
        fields["audit_ms"] = _milliseconds(state.waited)
    return fields


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
