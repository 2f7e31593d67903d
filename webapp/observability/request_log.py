"""The id, the log line, the metrics and the common headers of each request.

`init_app` comes first in `create_app`. So its `before_request` hook runs before all others, and its
`after_request` hook after all others.
"""

import atexit
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from queue import SimpleQueue
from threading import Thread
from time import perf_counter, sleep, time
from urllib.parse import quote

import structlog
from flask import Flask, Response, request
from prometheus_client import Counter
from uuid_utils import uuid7
from werkzeug.routing import Rule

from webapp.http.state import RequestState, begin_request, current_state
from webapp.observability import logs, metrics, traces
from webapp.observability.answered import UNMATCHED, Answered
from webapp.observability.redaction import scrub
from webapp.settings import Settings

REQUEST_ID_HEADER = "X-Request-ID"
WAITING_MAX = 10_000
"""Requests that may wait for a log reader that stalls; later ones are dropped and counted."""

GATHER = 0.05
"""Seconds in which requests gather before the thread notes them."""

MAX_REQUEST_ID = 128
"""Characters of an id that a client gives its request."""

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

DROPPED = Counter(
    "sightline_log_lines_dropped_total", "Lines of requests that nobody read in time."
)

_EXTENSION = "request_log"

log = structlog.get_logger()


def init_app(app: Flask) -> None:
    """Note each request at once, in its own thread; servers call `note_in_background`."""
    settings: Settings = app.extensions["settings"]
    render, noted = logs.line_renderer(settings.env), traces.of(app)
    request_log = app.extensions[_EXTENSION] = RequestLog(render, noted.note_request)
    app.before_request(_begin)
    app.after_request(request_log.finish)


def note_in_background(app: Flask) -> None:
    """Leave lines and metrics to a thread of this process. Call it after the last fork."""
    request_log: RequestLog = app.extensions[_EXTENSION]
    request_log.start()


class RequestLog:
    """Writes a line for each request, counts it in the metrics, and has it traced.

    Once it was started, a thread does so for the requests of GATHER seconds together. That takes
    15 of 200 µs out of the thread of a cached answer (`python -m bench answers`).
    """

    def __init__(self, render: logs.RenderLine, trace: Callable[[Answered], None]) -> None:
        self._render = render
        self._trace = trace
        self._waiting: SimpleQueue[Answered | None] | None = None
        """`None` before the start; in the queue, `None` ends the thread."""

    def start(self) -> None:
        """Start the thread; what is left is noted when the process ends."""
        self._waiting = SimpleQueue()
        thread = Thread(target=self._run, args=[self._waiting], name="request-log", daemon=True)
        thread.start()
        atexit.register(self._stop, self._waiting, thread)

    def finish(self, response: Response) -> Response:
        """Add the common headers to an answer, and note the request once the answer leaves."""
        state, rule = current_state(), request.url_rule
        response.headers.add(REQUEST_ID_HEADER, state.request_id or "")
        response.headers.add("X-Content-Type-Options", "nosniff")
        if state.limit is not None and response.status_code != 429:  # that one has its own
            response.headers.add("RateLimit", state.limit.left(state.tokens))
            response.headers.add("RateLimit-Policy", state.limit.policy)
        note = partial(self._note_answer, state, request.method, rule, response.status_code)
        if state.held is None:
            note()
        else:
            state.held.then = note
        return response

    def _note_answer(
        self, state: RequestState, method: str, rule: Rule | None, status: int
    ) -> None:
        self._note(
            Answered(
                at=time(),
                seconds=perf_counter() - state.started,
                method=method,
                route=UNMATCHED if rule is None else rule.rule,
                status=status,
                request_id=state.request_id,
                client_request_id=state.client_request_id,
                traceparent=state.traceparent,
                principal=state.principal.id if state.principal else None,
                scope=type(state.surface_scope),
                surface=state.surface.name if state.surface else None,
                waited=state.waited,
                recorded=state.recorded,
            )
        )

    def _note(self, answered: Answered) -> None:
        if self._waiting is None:
            self._write([answered])
        elif self._waiting.qsize() < WAITING_MAX:
            self._waiting.put(answered)
        else:
            DROPPED.inc()
            _count(answered)

    def _run(self, waiting: SimpleQueue[Answered | None]) -> None:
        ended = False
        while not ended:
            answers = [waiting.get()]
            sleep(GATHER)
            answers += [waiting.get_nowait() for _ in range(waiting.qsize())]
            ended = None in answers
            try:
                self._write(answered for answered in answers if answered is not None)
            except Exception as error:  # the thread must go on
                log.error("requests_not_logged", requests=len(answers), exc_info=error)

    def _stop(self, waiting: SimpleQueue[Answered | None], thread: Thread) -> None:
        waiting.put(None)
        thread.join()

    def _write(self, answers: Iterable[Answered]) -> None:
        lines = []
        for answered in answers:
            _count(answered)
            lines.append(self._render(_fields(answered)))
            self._trace(answered)
        logs.Stderr().msg("\n".join(lines))


def _count(answered: Answered) -> None:
    metrics.count_request(answered.method, answered.route, answered.status, answered.seconds)


def _begin() -> None:
    begin_request(
        str(uuid7()),
        client_request_id=_given_id(request.headers.get(REQUEST_ID_HEADER)),
        traceparent=_given_trace(request.headers.get("traceparent")),
    )


def _given_id(given: str | None) -> str | None:
    """The id that the client gives its request, fit for a log line; never what resembles a token.

    It is beside ours and never in its place: whoever chooses an id could choose another's.
    """
    if not given:
        return None
    return scrub(quote(given.encode("latin-1"), safe="/:=+@"))[:MAX_REQUEST_ID]


def _given_trace(given: str | None) -> str | None:
    """The trace that a client says its request is in, in the form of W3C's Trace Context."""
    return given if given and _TRACEPARENT.fullmatch(given) else None


def _fields(answered: Answered) -> dict[str, object]:
    fields: dict[str, object] = {
        "method": answered.method,
        "route": answered.route,
        "status": answered.status,
        "duration_ms": _milliseconds(answered.seconds),
        "request_id": answered.request_id,
        "principal": answered.principal,
        "scope": answered.scope_kind,
        "surface": answered.surface,
        "event": "request",
        "level": "error" if answered.has_failed else "info",
        "timestamp": datetime.fromtimestamp(answered.at, UTC).strftime(logs.TIME),
    }
    if answered.client_request_id:
        fields["x_request_id"] = answered.client_request_id
    if answered.traceparent:
        fields["traceparent"] = answered.traceparent
    if answered.waited:
        fields["audit_ms"] = _milliseconds(answered.waited)
    return fields


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
