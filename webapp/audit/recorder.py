"""The recorder of a request's accesses: each is recorded once, before the answer leaves.

The request's state holds one event for each (actor, surface, reason). Entering the same surface
again counts as a repeat. The journal notes that an access begins. When the answer is known, the
journal notes how the access ended. Only then does the answer leave, with the events' ids. A
rollback of the request's own transaction changes nothing. Where the request or its process died
before the answer, the access stands in the ledger as interrupted.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from time import monotonic, time
from typing import ClassVar, cast
from uuid import UUID

import structlog
from flask import Flask, Response, current_app, request
from prometheus_client import Counter

from webapp.audit.event import (
    Actor,
    AuditEvent,
    EventDecision,
    EventRequest,
    EventScope,
    Kind,
    Outcome,
    Reason,
    Via,
    dump_event,
    moment_of,
    new_event_id,
    new_salt,
)
from webapp.audit.journal.service import JournalFailed, Writing
from webapp.audit.relay.pipeline import current_journal
from webapp.audit.size import EventTooLarge, check_size, shorten
from webapp.http.errors import AuditUnavailable, problem
from webapp.http.held import holder_for, message_of
from webapp.http.state import Recorded, Streamed, current_state, resume_request
from webapp.settings import current_settings
from webapp.text import percent_encoded

RECEIPT_HEADER = "Sightline-Audit"
EXCLUDED_HEADER = "Sightline-Excluded"
MAX_PATH, MAX_USER_AGENT = 2048, 1024

log = structlog.get_logger()

ACCESSES = Counter(
    "sightline_audit_accesses_total",
    "Accesses recorded, by surface and outcome.",
    ("surface", "outcome"),
)
REFUSED = Counter(
    "sightline_audit_refused_total", "Requests refused because they could not be recorded."
)
LOST = Counter(
    "sightline_audit_lost_total",
    "Events of refused accesses for which the journal's memory had no room.",
)
UNVOUCHED = Counter(
    "sightline_audit_unvouched_total",
    "Answers of open surfaces that left before their accesses were recorded.",
)


@dataclass(frozen=True)
class ExternalAccess:
    """Marks an access to the data of another service, which asked for a decision about it.

    The service gets the same receipt each time it repeats its request. So the access must be on
    disk before the answer is committed.
    """

    ip: str | None
    """The person's address, as the service states it."""
    via: Via
    """The service."""

    SURFACE: ClassVar = "external"
    """The label of all such surfaces in metrics: services name as many surfaces as they like."""


_Key = tuple[UUID, str, Reason | None, EventScope | None]
"""Accesses of one request with the same key share a record. Only a change's key has a scope."""


@dataclass(frozen=True)
class Access:
    """One use of a surface, as it is known when the surface is entered."""

    kind: Kind
    actor: Actor
    surface: str
    reason: Reason | None
    scope: EventScope
    decision: EventDecision
    open: bool = False
    """Whether the answer may leave although the access cannot be recorded now."""
    external: ExternalAccess | None = None
    streams: bool = False
    """Whether the answer goes on after its beginning has to be on disk."""

    @property
    def key(self) -> _Key:
        changed = self.scope if self.kind == "change" else None
        return self.actor.id, self.surface, self.reason, changed


@dataclass
class _Begun:
    """An access that has begun in this request."""

    access: Access
    event: AuditEvent
    """The record for the case that the request ends without an answer."""
    rows: int | None = None
    repeats: int = 1
    concerns: EventScope | None = None
    """The scope that the event names instead, once a change is known to concern a tenant."""

    def answered(self, status: int | None) -> AuditEvent:
        return replace(
            self.event,
            outcome=_outcome(self.access, status),
            http_status=status,
            rows=self.rows,
            repeats=self.repeats,
            scope=self.concerns or self.event.scope,
            # The query of a service's request is none of the person's.
            terms=None if self.access.external else current_state().terms or None,
        )


_Accesses = dict[_Key, _Begun]


class ScopeChanged(RuntimeError):
    """A programming error: one request used one surface, for one reason, in two scopes.

    A single record cannot show both scopes. Give the second access a surface of its own.
    """


class TooLate(RuntimeError):
    """A programming error: a surface was entered after the answer was recorded, as by a stream.

    What such a surface shows would leave without a record.
    """


def init_app(app: Flask) -> None:
    app.after_request(finalize)
    app.teardown_request(_finalize_interrupted)


def begin(access: Access) -> UUID:
    """Begin to record an access, or count a repeat of it in this request; return its event's id.

    Raises `AuditUnavailable` where a change or an external access cannot be recorded, and where any
    access would have too large a record. The caller must not carry it out then.
    """
    state = current_state()
    if state.finalized:
        raise TooLate(access.surface)
    accesses = cast(_Accesses, state.accesses)
    begun = accesses.get(access.key)
    if begun is None:
        begun = accesses[access.key] = _begin(access)
    elif begun.access != access:
        raise ScopeChanged(access.surface)
    else:
        begun.repeats += 1
    return begun.event.id


def count_rows(surface: str, rows: int) -> None:
    """Add to the number of rows that the answer shows of a surface."""
    for begun in cast(_Accesses, current_state().accesses).values():
        if begun.access.surface == surface:
            begun.rows = (begun.rows or 0) + rows


def concern(tenant_id: UUID | None, slug: str | None) -> None:
    """Note which tenant a change in the scope of all tenants concerns, so that the tenant sees its
    event. To be called as soon as it is known, whether the change succeeds or not."""
    if tenant_id is None:
        return
    for begun in cast(_Accesses, current_state().accesses).values():
        if begun.access.kind == "change" and begun.access.scope.kind == "global":
            begun.concerns = EventScope(kind="global", tenant=slug, tenant_id=tenant_id)


def finalize(response: Response) -> Response:
    """Record the request's accesses, or answer 503 instead of showing what they read.

    A server that can hold the answer back does so until the events are durable. Otherwise this
    thread waits for that.
    """
    state = current_state()
    accesses, state.accesses, state.finalized = cast(_Accesses, state.accesses), {}, True
    if not accesses:
        return response
    begun = tuple(accesses.values())
    events = [entry.answered(response.status_code) for entry in begun]
    if response.is_streamed and isinstance(state.streamed, _Streamed):
        state.streamed.begin(response, begun, events)
        state.recorded = _recorded(events, 0.0)
        _tell(response, begun, events)
        return response
    # Where an open surface's answer leaves unrecorded, it has no receipt: that must be known first.
    holder = None if _are_open(begun) else holder_for(response)
    try:
        if holder is None:
            waited = state.waited
            _wait_for(lambda within: current_journal().finalize(events, within))
            state.recorded = _recorded(events, state.waited - waited)
            _count(begun, events)
        else:
            state.held = _HeldRecord(begun, events, current_journal().start_finalizing(events))
            holder.hold(state.held)
    except Exception as error:  # whatever the error, what was not recorded is not shown
        return _unrecorded(begun, events, response, error)
    _tell(response, begun, events)
    return response


def stream(count: Callable[[], int]) -> Streamed:
    """Have the accesses of this request recorded when its answer has ended, however it ends.

    They have begun on disk. `count` says how many rows the answer has shown by then.
    """
    streamed = _Streamed(count)
    current_state().streamed = streamed
    return streamed


class _Streamed:
    """An answer that goes on after its view has returned, and the record of its accesses.

    Nothing here needs the request's context: the server may end an answer outside of it.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._journal = current_journal()
        self._timeout = current_settings().audit_timeout
        self._is_whole = False
        self._begun: Sequence[_Begun] = ()
        self._events: Sequence[AuditEvent] = ()

    def follow(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the parts of the answer on, and note that none is left."""
        yield from parts
        self._is_whole = True

    def begin(
        self, response: Response, begun: Sequence[_Begun], events: Sequence[AuditEvent]
    ) -> None:
        self._begun, self._events = begun, events
        response.call_on_close(self._end)

    def _end(self) -> None:
        """Record what the answer has shown: all of it, or what it came to before it ended."""
        rows = self._count()
        outcome: Outcome = "served" if self._is_whole else "interrupted"
        events = [replace(event, rows=rows, outcome=outcome) for event in self._events]
        try:
            self._journal.finalize(events, self._timeout)
        except JournalFailed as error:
            log.error("audit_not_finalized", events=[str(e.id) for e in events], problem=str(error))
            with suppress(JournalFailed):  # then it stays as it began: interrupted
                self._journal.finalize_later(events)
        _count(self._begun, events)


class _HeldRecord:
    """An answer that is held back until the events of its accesses are durable."""

    def __init__(
        self, begun: Sequence[_Begun], events: Sequence[AuditEvent], writing: Writing
    ) -> None:
        self._begun = begun
        self._events = events
        self._writing = writing
        self._request_context = current_app.request_context
        self._environ = request.environ
        self._state = current_state()
        self._since = monotonic()
        self.expires = self._since + _time_left()
        self.when_ready = writing.when_done
        self.then: Callable[[], None] = lambda: None

    def decide(self) -> bytes | None:
        """Let the answer leave if its events are durable; otherwise return the one that says so."""
        waited = monotonic() - self._since
        self._state.waited += waited
        try:
            self._writing.wait(0)
        except JournalFailed as error:
            return self._refusal(error)
        self._state.recorded = _recorded(self._events, waited)
        _count(self._begun, self._events)
        self.then()
        return None

    def _refusal(self, error: JournalFailed) -> bytes:
        self._state.held = None
        with self._request_context(self._environ):
            resume_request(self._state)
            refusal = _unrecorded(self._begun, self._events, Response(), error)
            return message_of(current_app.process_response(refusal), self._environ)


def _begin(access: Access) -> _Begun:
    """Have the journal note that an access begins.

    A denied access runs no view in which its process could die, so it needs no beginning. A change
    waits for the disk, since its transaction may commit before the answer is known. An external
    access waits too, denied or not, since its answer itself is committed.
    """
    event, journal = _event(access), current_journal()
    try:
        check_size(event)
    except EventTooLarge as error:
        log.critical("audit_event_too_large", events=[str(event.id)], problem=str(error))
        REFUSED.inc()
        refused = _Begun(access, shorten(event))
        _finalize_later([refused.answered(AuditUnavailable.status)])
        raise AuditUnavailable(str(error)) from error
    begun = _Begun(access, event)
    if access.decision.effect != "allowed" and access.external is None:
        return begun
    try:
        if access.kind == "change" or access.external is not None or access.streams:
            _wait_for(lambda within: journal.begin_durably(event, within))
        else:
            journal.begin(event)
    except JournalFailed as error:
        log.error("audit_not_begun", events=[str(event.id)], problem=str(error))
        if access.open and access.kind == "access":
            return begun
        REFUSED.inc()
        _finalize_later([begun.answered(AuditUnavailable.status)])
        raise AuditUnavailable from error
    return begun


def _wait_for(write: Callable[[float], None]) -> None:
    """Call `write` with what is left of AUDIT_TIMEOUT: all waits of a request share that time."""
    state, began = current_state(), monotonic()
    try:
        write(_time_left())
    finally:
        state.waited += monotonic() - began


def _recorded(events: Sequence[AuditEvent], seconds: float, *, durable: bool = True) -> Recorded:
    return Recorded(tuple([event.id for event in events]), time(), seconds, durable)


def _time_left() -> float:
    return max(0.0, current_settings().audit_timeout - current_state().waited)


def _count(begun: Sequence[_Begun], events: Sequence[AuditEvent]) -> None:
    for entry, event in zip(begun, events, strict=True):
        counted_as = ExternalAccess.SURFACE if entry.access.external else event.surface
        _counter(counted_as, event.outcome).inc()


def _tell(response: Response, begun: Sequence[_Begun], events: Sequence[AuditEvent]) -> None:
    """Add the receipts to an answer, and how many tenants it leaves out."""
    response.headers.add(RECEIPT_HEADER, ", ".join([str(event.id) for event in events]))
    excluded = [
        entry.access.decision.excluded.count if entry.access.decision.excluded else 0
        for entry in begun
        if entry.access.scope.kind == "global"
    ]
    if excluded:
        response.headers[EXCLUDED_HEADER] = str(max(excluded))


def _are_open(begun: Sequence[_Begun]) -> bool:
    """Whether the answer may leave although its accesses cannot be recorded now."""
    return all(entry.access.open for entry in begun)


def _unrecorded(
    begun: Sequence[_Begun], events: Sequence[AuditEvent], response: Response, error: Exception
) -> Response:
    """Return the answer when the journal did not take the events: it shows open surfaces only."""
    log.error(
        "audit_not_recorded",
        events=[str(event.id) for event in events],
        problem=str(error),
        exc_info=None if isinstance(error, JournalFailed) else error,
    )
    state = current_state()
    state.recorded = _recorded(events, state.waited, durable=False)
    if _are_open(begun) and _finalize_later(events):
        UNVOUCHED.inc()
        return response
    REFUSED.inc()
    refusal = problem(AuditUnavailable())
    _finalize_later([entry.answered(refusal.status_code) for entry in begun])
    response.close()
    return refusal


def _finalize_later(events: Sequence[AuditEvent]) -> bool:
    """Leave events to the journal until its disk is back; return whether it had room for them."""
    try:
        current_journal().finalize_later(events)
    except JournalFailed as error:
        LOST.inc(len(events))
        log.critical("audit_lost", events=[dump_event(e).decode() for e in events], exc_info=error)
        return False
    return True


def _finalize_interrupted(_: BaseException | None) -> None:
    """Record the accesses of a request that ended without an answer."""
    state = current_state()
    accesses, state.accesses = cast(_Accesses, state.accesses), {}
    if accesses:
        _finalize_later([entry.answered(None) for entry in accesses.values()])


def _event(access: Access) -> AuditEvent:
    """Return the event of an access that has no answer yet."""
    event_id, external = new_event_id(), access.external
    return AuditEvent(
        actor=access.actor,
        decision=access.decision,
        http_status=None,
        id=event_id,
        kind=access.kind,
        occurred_at=moment_of(event_id),
        outcome=_outcome(access, None),
        reason=access.reason,
        repeats=1,
        request=_request(external),
        rows=None,
        salt=new_salt(),
        scope=access.scope,
        surface=access.surface,
        via=external.via if external else None,
    )


def _request(external: ExternalAccess | None) -> EventRequest:
    state, user_agent = current_state(), request.headers.get("User-Agent", "")
    return EventRequest(
        id=state.request_id or "",
        ip=external.ip if external else request.remote_addr,
        method=request.method,
        path=_bounded(percent_encoded(request.path.encode(errors="surrogateescape")), MAX_PATH),
        user_agent=_bounded(percent_encoded(user_agent.encode("latin-1")), MAX_USER_AGENT) or None,
        x_request_id=state.client_request_id,
    )


@lru_cache(1024)
def _counter(surface: str, outcome: Outcome) -> Counter:
    return ACCESSES.labels(surface, outcome)


def _outcome(access: Access, status: int | None) -> Outcome:
    if access.decision.effect != "allowed":
        return "denied"
    if status is None:
        return "interrupted"
    return "served" if status < 400 else "failed"


def _bounded(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
