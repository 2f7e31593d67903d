"""Traces that are sent by OpenTelemetry's protocol, as its own variables say.

Spans are made after what they tell, with the moments at which it happened. The trace of an access
has its event's id, and the first span there, the request's, the lower half of it. So any process
can name both, also where the request's own died before it sent anything.

Each event has spans of its own, though the relay and the workers take many at once. One span for a
batch, with links, would lead from the batch to its accesses, and no access to its commit.
"""

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from threading import Thread, local
from uuid import UUID

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from webapp.http.state import Recorded
from webapp.observability.answered import UNMATCHED, Answered
from webapp.observability.metrics import METHODS
from webapp.observability.traces import Process, Stage
from webapp.version import VERSION

STOPPING = 1.0
"""Seconds that an ending process waits until what is left is sent."""

LINKS = 32
"""The most events of one request that are traced, each with links to the others."""

EVENT_ID = "sightline.event_id"
"""The attribute of each span of an access, in the form in which the receipt has the id."""

_HALF = 2**64 - 1
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_KINDS = {Stage.RELAY: SpanKind.PRODUCER, Stage.TASK: SpanKind.CONSUMER}

_Attributes = dict[str, str | int]

log = structlog.get_logger()


@contextmanager
def _harmless() -> Iterator[None]:
    """Let no error of a trace reach what it tells of."""
    try:
        yield
    except Exception as error:
        log.error("trace_not_noted", exc_info=error)


class OtlpTraces:
    """Implements `webapp.observability.traces.Traces`."""

    def __init__(self) -> None:
        self._sender: _Sender | None = None

    def start(self, process: Process) -> None:
        self._sender = _Sender(process)

    def stop(self) -> None:
        if self._sender is not None:
            self._sender.stop()

    def note_request(self, answered: Answered) -> None:
        if self._sender is not None:
            with _harmless():
                _note_request(self._sender, answered)

    def note(self, stage: Stage, events: Iterable[UUID], began: float, ended: float) -> None:
        if self._sender is not None:
            with _harmless():
                _note_stage(self._sender, stage, events, began, ended)


class _Sender:
    """Makes the spans of one process. A thread sends them; where it is late, the oldest are lost.

    Whether a trace is sent is decided from its id, or by its parent, as OTEL_TRACES_SAMPLER says.
    """

    def __init__(self, process: Process) -> None:
        own: _Attributes = {
            "service.name": f"sightline-{process}",
            "service.version": VERSION,
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
        }
        named = OTELResourceDetector().detect()
        resource = Resource.create().merge(Resource(own)).merge(named)
        self._sampler = TracerProvider(shutdown_on_exit=False).sampler
        self._processor = BatchSpanProcessor(OTLPSpanExporter())
        self._ids = _Ids()
        provider = TracerProvider(
            ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=self._ids
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("sightline", VERSION)

    def stop(self) -> None:
        """Send what is left within STOPPING: it is given up where nobody takes it."""
        thread = Thread(target=self._processor.shutdown, daemon=True)
        thread.start()
        thread.join(STOPPING)

    def sends(self, trace: UUID) -> bool:
        """Whether a trace of ours is sent: all processes decide alike.

        Samplers take the lower bits of an id for random, and some of a UUID's are fixed.
        """
        spread = int.from_bytes(blake2b(trace.bytes, digest_size=16).digest())
        return self._is_sampled(Context(), spread)

    def sends_within(self, parent: SpanContext) -> bool:
        """Whether a part of a client's trace is sent."""
        return self._is_sampled(_within(parent), parent.trace_id)

    def _is_sampled(self, context: Context, trace_id: int) -> bool:
        sampling = self._sampler.should_sample(context, trace_id, "")
        return sampling.decision is Decision.RECORD_AND_SAMPLE

    def add_first(self, trace: UUID, span: "_Span", links: Sequence[Link] = ()) -> None:
        """Add the first span of a trace."""
        with self._ids.first(trace):
            self._add(Context(), span, links)

    def add(self, parent: SpanContext, span: "_Span", links: Sequence[Link] = ()) -> None:
        self._add(_within(parent), span, links)

    def _add(self, context: Context, span: "_Span", links: Sequence[Link]) -> None:
        began, ended = int(span.began * 1e9), int(span.ended * 1e9)
        made = self._tracer.start_span(
            span.name, context, span.kind, span.attributes, links, start_time=began
        )
        if span.has_failed:
            made.set_status(StatusCode.ERROR)
        made.end(ended)


@dataclass(frozen=True)
class _Span:
    """What a span tells. None of it is a text that a client chooses."""

    name: str
    kind: SpanKind
    began: float
    """Seconds since 1970, as `ended`."""
    ended: float
    attributes: _Attributes
    has_failed: bool = False

    def of(self, event: UUID) -> "_Span":
        """The same, of one event."""
        return replace(self, attributes={**self.attributes, EVENT_ID: str(event)})


class _Ids(RandomIdGenerator):
    """Random ids, but for the first span of a trace, whose ids are known before."""

    def __init__(self) -> None:
        self._of_thread = local()

    @contextmanager
    def first(self, trace: UUID) -> Iterator[None]:
        self._of_thread.first = _first_of(trace)
        try:
            yield
        finally:
            self._of_thread.first = None

    def generate_trace_id(self) -> int:
        first = self._first
        return super().generate_trace_id() if first is None else first.trace_id

    def generate_span_id(self) -> int:
        first = self._first
        return super().generate_span_id() if first is None else first.span_id

    @property
    def _first(self) -> SpanContext | None:
        first: SpanContext | None = getattr(self._of_thread, "first", None)
        return first


def _note_request(sender: _Sender, answered: Answered) -> None:
    """Add the request to the trace of each of its events, and to its client's.

    One that has neither has a trace of its own id.
    """
    span, recorded = _request_span(answered), answered.recorded
    events = [event for event in (recorded.events if recorded else ()) if sender.sends(event)]
    client = _client_of(answered.traceparent)
    firsts = {event: _first_of(event) for event in events[:LINKS]}
    for event in firsts:
        others = [first for other, first in firsts.items() if other != event]
        links = [Link(other) for other in (*others, *([client] if client else []))]
        sender.add_first(event, span.of(event), links)
    if client is not None and sender.sends_within(client):
        sender.add(client, span, [Link(first) for first in firsts.values()])
    if client is None and recorded is None and sender.sends(own := UUID(answered.request_id or "")):
        sender.add_first(own, span)
    if recorded is not None:
        _note_journal(sender, recorded)


def _request_span(answered: Answered) -> _Span:
    method = answered.method if answered.method in METHODS else "_OTHER"
    matched = answered.route != UNMATCHED
    told: dict[str, str | int | None] = {
        "http.request.method": method,
        "http.route": answered.route if matched else None,
        "http.response.status_code": answered.status,
        "sightline.request_id": answered.request_id,
        "sightline.surface": answered.surface,
        "sightline.scope": answered.scope_kind,
    }
    return _Span(
        f"{method} {answered.route}" if matched else method,
        SpanKind.SERVER,
        answered.at - answered.seconds,
        answered.at,
        {name: value for name, value in told.items() if value is not None},
        answered.has_failed,
    )


def _note_journal(sender: _Sender, recorded: Recorded) -> None:
    began, failed = recorded.at - recorded.seconds, not recorded.durable
    _note_stage(sender, Stage.JOURNAL, recorded.events, began, recorded.at, failed=failed)


def _note_stage(
    sender: _Sender,
    stage: Stage,
    events: Iterable[UUID],
    began: float,
    ended: float,
    *,
    failed: bool = False,
) -> None:
    kind = _KINDS.get(stage, SpanKind.INTERNAL)
    span = _Span(stage.value, kind, began, ended, {}, failed)
    for event in events:
        if sender.sends(event):
            sender.add(_first_of(event), span.of(event))


def _first_of(trace: UUID) -> SpanContext:
    """The first span of a trace, which may be another process's."""
    return SpanContext(trace.int, trace.int & _HALF, is_remote=True, trace_flags=_SAMPLED)


def _client_of(traceparent: str | None) -> SpanContext | None:
    """The client's span, in which it says that its request is."""
    if traceparent is None:
        return None
    _, trace, span, flags = traceparent.split("-")
    return SpanContext(int(trace, 16), int(span, 16), True, TraceFlags(int(flags, 16)))


def _within(parent: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(parent), Context())
