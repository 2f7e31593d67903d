"""The id, the log line, the metrics and the common headers of each request.

`init_app` comes first in `create_app`. So its `before_request` hook runs before all others, and its
`after_request` hook after all others.
"""

import atexit
import logging
import re
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from queue import Empty, SimpleQueue
from time import perf_counter, sleep
from typing import cast

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

GATHER = 0.05
"""Seconds in which lines gather before a thread writes them."""

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
_RECORD = {"name": logger.name, "levelno": logging.INFO, "levelname": "INFO", "msg": "request"}
"""What all records have. `logger.info` would walk the stack for each, to name its caller."""


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
    queue: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
    (handler,) = logger.handlers
    listener = _Listener(queue, handler)
    logger.handlers[:] = [_DroppingHandler(queue)]
    listener.start()
    atexit.register(listener.stop)


class _Listener(QueueListener):
    """Writes the lines of GATHER seconds together.

    A thread that wakes and writes for each line takes the interpreter's lock from a request twice.
    """

    queue: SimpleQueue[logging.LogRecord | None]

    def __init__(
        self, queue: SimpleQueue[logging.LogRecord | None], handler: logging.Handler
    ) -> None:
        super().__init__(queue, handler)
        self._format = handler.format
        self._lines: list[str] = []

    def dequeue(self, block: bool) -> logging.LogRecord:
        try:
            record = self.queue.get_nowait()
        except Empty:
            self._write()
            record = self.queue.get(block)
            sleep(GATHER)
        return cast(logging.LogRecord, record)  # `None` is the listener's own sign to end

    def handle(self, record: logging.LogRecord) -> None:
        self._lines.append(self._format(record))

    def stop(self) -> None:
        super().stop()
        self._write()

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            logs.Stderr().msg("\n".join(lines))


class _DroppingHandler(QueueHandler):
    """Hands lines to a thread; a line for which there is no room is dropped and counted."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # its fields are values, and nothing is formatted before the thread writes

    queue: SimpleQueue[logging.LogRecord | None]

    def enqueue(self, record: logging.LogRecord) -> None:
        if self.queue.qsize() < WAITING_MAX:
            self.queue.put_nowait(record)
        else:
            DROPPED.inc()


def _begin() -> None:
    begin_request(_request_id(request.headers.get(REQUEST_ID_HEADER)))


def _request_id(given: str | None) -> str:
    return given if given and _REQUEST_ID.fullmatch(given) else str(uuid7())


def _finish(response: Response) -> Response:
    state = current_state()
    seconds = perf_counter() - state.started
    response.headers.add(REQUEST_ID_HEADER, state.request_id or "")
    response.headers.add("X-Content-Type-Options", "nosniff")
    method, rule, status = request.method, request.url_rule, response.status_code
    route = UNMATCHED if rule is None else rule.rule
    metrics.count_request(method, route, status, seconds)
    fields = _fields(state, method, route, status, seconds)
    logger.handle(logging.makeLogRecord({**_RECORD, "fields": fields}))
    return response


def _fields(
    state: RequestState, method: str, route: str, status: int, seconds: float
) -> dict[str, object]:
    fields: dict[str, object] = {
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": _milliseconds(seconds),
        "request_id": state.request_id,
        "principal": state.principal.id if state.principal else None,
        "scope": _SCOPE_KINDS.get(type(state.surface_scope)),
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
