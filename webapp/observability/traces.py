"""Traces of accesses, from the request to the ledger, where `OTEL_*` asks for them.

An event's id is the id of its access's trace. So whoever knows the id adds to the same trace: the
web, another host that adopted a journal, and a worker. Nothing travels beside the event.

What is noted has already happened: no request, and no relay, waits for a trace.
"""

import atexit
from collections.abc import Iterable
from enum import Enum
from typing import Literal, Protocol
from uuid import UUID

from celery.signals import worker_process_init, worker_process_shutdown
from flask import Flask, current_app

from webapp.observability.answered import Answered
from webapp.settings import Settings

_EXTENSION = "traces"

Process = Literal["web", "worker"]


class Stage(Enum):
    """A stage of an access after its request, by the name of its span."""

    JOURNAL = "journal.write"
    RELAY = "relay.send"
    TASK = "audit.commit"
    COMMIT = "ledger.commit"


class Traces(Protocol):
    """Takes note of what has happened, and sends it in the background."""

    def start(self, process: Process) -> None:
        """Begin to send. Call it after the last fork: what was noted before is not sent."""

    def stop(self) -> None:
        """Send what is left, if that takes no longer than a moment."""

    def note_request(self, answered: Answered) -> None:
        """Note a request in the trace of each event that it leaves, and in its client's."""

    def note(self, stage: Stage, events: Iterable[UUID], began: float, ended: float) -> None:
        """Note a stage in the traces of these events; the moments are seconds since 1970."""


class NoTraces:
    """Where nothing asks for traces, nothing is noted, and nothing imported."""

    def start(self, process: Process) -> None: ...

    def stop(self) -> None: ...

    def note_request(self, answered: Answered) -> None: ...

    def note(self, stage: Stage, events: Iterable[UUID], began: float, ended: float) -> None: ...


def init_app(app: Flask) -> None:
    """Choose whether the application's processes send traces. None does before its start."""
    settings: Settings = app.extensions["settings"]
    app.extensions[_EXTENSION] = _sending() if settings.sends_traces else NoTraces()


def of(app: Flask) -> Traces:
    traces: Traces = app.extensions[_EXTENSION]
    return traces


def current_traces() -> Traces:
    return of(current_app)


def start(app: Flask) -> None:
    """Begin to send the traces of a web process; what is left is sent when it ends."""
    of(app).start("web")
    atexit.register(of(app).stop)


def _sending() -> Traces:
    from webapp.observability.otlp import OtlpTraces  # only here: what it imports is an extra

    traces = OtlpTraces()

    def start(**_: object) -> None:
        traces.start("worker")

    def stop(**_: object) -> None:
        traces.stop()

    worker_process_init.connect(start, weak=False)
    worker_process_shutdown.connect(stop, weak=False)
    return traces
