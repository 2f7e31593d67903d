"""Structured logs on stderr, ours and every library's, through one formatter.

Lines are JSON where the service is deployed, and made for reading in development.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any

import orjson
import structlog
from celery import signals
from flask import has_app_context
from structlog.typing import EventDict, Processor, WrappedLogger

from webapp.http.state import current_state
from webapp.observability.redaction import redact
from webapp.settings import Environment
from webapp.text import escaped_json, escaped_lines

LIBRARIES = ("celery", "gunicorn.error", "gunicorn.access", "sqlalchemy")

TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
"""The form of every line's moment: UTC, to the microsecond."""

NOISE = ("celery.worker.strategy", "celery.app.trace")
"""Loggers that say of each task that it came and that it is done, which is one line of ours."""

RenderLine = Callable[[MutableMapping[str, Any]], str]
"""Renders the fields of a line."""


class Stderr:
    """A stream that finds stderr anew for each line, since tests and servers replace it."""

    def msg(self, line: str) -> None:
        # The reader of the log may be gone, which is no reason to answer 500.
        with suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")

    debug = info = warning = error = critical = msg


def configure(env: Environment) -> None:
    """Set up structlog and the standard library's logging; may be called again."""
    render = render_pretty if env == "development" else render_json
    ours: list[Processor] = [
        _name_request,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt=TIME, utc=True),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, _redact, render]
    structlog.configure(
        processors=[*ours, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: Stderr(),
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*ours, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    _adopt_standard_logging(formatter)
    signals.setup_logging.connect(_keep_ours)


def line_renderer(env: Environment) -> RenderLine:
    """The function that renders lines of requests, which hold no secret."""
    render = render_pretty if env == "development" else render_json
    return lambda fields: render(None, fields["level"], fields)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            Stderr().msg(self.format(record))
        except Exception:
            self.handleError(record)


def _adopt_standard_logging(formatter: logging.Formatter) -> None:
    handler = _Handler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    # Its line for each request repeats that of `request_log`, and holds the query string.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    for quiet in ("alembic", *NOISE):
        logging.getLogger(quiet).setLevel(logging.WARNING)


def _keep_ours(loglevel: int | None = None, **_: object) -> None:
    """Keep these handlers: Celery sets up its own unless this signal has a receiver."""
    logging.getLogger().setLevel(loglevel or logging.INFO)


def _name_request(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    request_id = current_state().request_id if has_app_context() else None
    if request_id is not None:
        event.setdefault("request_id", request_id)
    return event


def _redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return redact(event)


def render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    try:
        return escaped_json(orjson.dumps(event, option=orjson.OPT_UTC_Z).decode())
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        return json.dumps(event, default=str)


_console = structlog.dev.ConsoleRenderer(
    colors=sys.stderr.isatty() and "NO_COLOR" not in os.environ,
    exception_formatter=structlog.dev.plain_traceback,
)


def render_pretty(logger: WrappedLogger, name: str, event: EventDict) -> str:
    shown = {key: escaped_lines(v) if isinstance(v, str) else v for key, v in event.items()}
    rendered = _console(logger, name, shown)
    return rendered if isinstance(rendered, str) else rendered.decode()
