"""The way in for a request's accesses: each recorded once, before any byte of the answer leaves.

The request's state holds one event for each (actor, surface, reason). Entering the same surface
again counts as a repeat. The journal is told when an access begins and, when the answer is known,
how it ended: only then does the answer leave, with the events' ids. What becomes of the request's
own transaction changes nothing. An access that nobody answers, since its request or its process
died, stands in the ledger as interrupted.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from time import monotonic
from typing import ClassVar, cast
from uuid import UUID

import structlog
from flask import Flask, Response, request
from prometheus_client import Counter
from uuid_utils.compat import uuid7

from webapp.audit.event import (
    Actor,
    AuditEvent,
    EventDecision,
    EventRequest,
    EventScope,
    Kind,
    Outcome,
    Reason,
    dump_event,
)
from webapp.audit.journal.service import JournalFailed
from webapp.audit.relay.pipeline import current_journal
from webapp.http.errors import AuditUnavailable, problem
from webapp.http.state import current_state
from webapp.settings import current_settings

RECEIPT_HEADER = "Sightline-Audit"
EXCLUDED_HEADER = "Sightline-Excluded"
MAX_PATH, MAX_USER_AGENT = 2048, 512

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
    """Marks an access to another service's data, which asked whether it may show it.

    The service gets the same receipt each time it asks again. So the access must be on disk before
    the answer is committed.
    """

    ip: str | None
    """The person's address, as the service states it."""

    SURFACE: ClassVar = "external"
    """The surface's name in metrics: services name as many surfaces as they like."""


_Key = tuple[UUID, str, Reason | None, EventScope | None]
"""What makes accesses of one request one record; changes are recorded for each scope."""


@dataclass(frozen=True)
class Access:
    """What is known when a surface is entered."""

    kind: Kind
    actor: Actor
    surface: str
    reason: Reason | None
    scope: EventScope
    decision: EventDecision
    open: bool = False
    """Whether the answer may leave although it cannot be recorded now."""
    external: ExternalAccess | None = None

    @property
    def key(self) -> _Key:
        changed = self.scope if self.kind == "change" else None
        return self.actor.id, self.surface, self.reason, changed


@dataclass
class _Begun:
    """What a request has done of one access so far."""

    access: Access
    event: AuditEvent
    """The record if nobody answers."""
    rows: int | None = None
    repeats: int = 1

    def answered(self, status: int | None) -> AuditEvent:
        return replace(
            self.event,
            outcome=_outcome(self.access, status),
            http_status=status,
            rows=self.rows,
            repeats=self.repeats,
        )


_Accesses = dict[_Key, _Begun]


class ScopeChanged(RuntimeError):
    """One request used one surface, for one reason, in two scopes: a programming error, since a
    single record cannot tell both. Give the second access a surface of its own."""


class TooLate(RuntimeError):
    """A surface was entered after the answer had been recorded, by a stream for one: a programming
    error, since what it shows would leave without a record."""


def init_app(app: Flask) -> None:
    app.after_request(finalize)
    app.teardown_request(_finalize_interrupted)


def begin(access: Access) -> UUID:
    """Record an access, or count it as a repeat of one in this request; returns its event's id.

    Raises `AuditUnavailable` where a change, or another service's access, cannot be recorded: then
    it must not be made.
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
    """Say how many rows the answer shows of a surface; repeats add up."""
    for begun in cast(_Accesses, current_state().accesses).values():
        if begun.access.surface == surface:
            begun.rows = (begun.rows or 0) + rows


def finalize(response: Response) -> Response:
    """Have the request's accesses recorded, or answer 503 instead of showing what they read."""
    state = current_state()
    accesses, state.accesses, state.finalized = cast(_Accesses, state.accesses), {}, True
    if not accesses:
        return response
    begun = accesses.values()
    events = [entry.answered(response.status_code) for entry in begun]
    try:
        _wait_for(lambda within: current_journal().finalize(events, within))
    except Exception as error:  # whatever it is, what was not recorded is not shown
        return _unrecorded(accesses, events, response, error)
    for entry, event in zip(begun, events, strict=True):
        counted_as = ExternalAccess.SURFACE if entry.access.external else event.surface
        _counter(counted_as, event.outcome).inc()
    response.headers.add(RECEIPT_HEADER, ", ".join([str(event.id) for event in events]))
    excluded = [len(e.decision.excluded_tenant_ids) for e in events if e.scope.kind == "global"]
    if excluded:
        response.headers[EXCLUDED_HEADER] = str(max(excluded))
    return response


def _begin(access: Access) -> _Begun:
    """Tell the journal that an access begins.

    What is denied has no middle to die in. A change waits for the disk, since its transaction may
    commit before the answer is known. So does another service's access, denied or not, since the
    answer itself is committed.
    """
    event, journal = _event(access), current_journal()
    begun = _Begun(access, event)
    if access.decision.effect != "allowed" and access.external is None:
        return begun
    try:
        if access.kind == "change" or access.external is not None:
            _wait_for(lambda within: journal.begin_durably(event, within))
        else:
            journal.begin(event)
    except JournalFailed as error:
        log.error("audit_not_begun", events=[str(event.id)], exc_info=error)
        if access.open and access.kind == "access":
            return begun
        REFUSED.inc()
        _finalize_later([begun.answered(AuditUnavailable.status)])
        raise AuditUnavailable from error
    return begun


def _wait_for(write: Callable[[float], None]) -> None:
    """Write within what is left of AUDIT_TIMEOUT: all the waiting of a request counts together."""
    state, began = current_state(), monotonic()
    try:
        write(max(0.0, current_settings().audit_timeout - state.waited))
    finally:
        state.waited += monotonic() - began


def _unrecorded(
    accesses: _Accesses, events: list[AuditEvent], response: Response, error: Exception
) -> Response:
    """The answer when the journal did not take the events: nothing of a closed surface."""
    log.error("audit_not_recorded", events=[str(event.id) for event in events], exc_info=error)
    if all(entry.access.open for entry in accesses.values()) and _finalize_later(events):
        UNVOUCHED.inc()
        return response
    REFUSED.inc()
    refusal = problem(AuditUnavailable())
    _finalize_later([entry.answered(refusal.status_code) for entry in accesses.values()])
    response.close()
    return refusal


def _finalize_later(events: list[AuditEvent]) -> bool:
    """Whether the journal has room to remember them until its disk is back."""
    try:
        current_journal().finalize_later(events)
    except JournalFailed as error:
        LOST.inc(len(events))
        log.critical("audit_lost", events=[dump_event(e).decode() for e in events], exc_info=error)
        return False
    return True


def _finalize_interrupted(_: BaseException | None) -> None:
    """Record the accesses for which no answer was made."""
    state = current_state()
    accesses, state.accesses = cast(_Accesses, state.accesses), {}
    if accesses:
        _finalize_later([entry.answered(None) for entry in accesses.values()])


def _event(access: Access) -> AuditEvent:
    """The access as it stands while nobody has answered."""
    return AuditEvent(
        actor=access.actor,
        decision=access.decision,
        http_status=None,
        id=uuid7(),
        kind=access.kind,
        occurred_at=datetime.now(UTC),
        outcome=_outcome(access, None),
        reason=access.reason,
        repeats=1,
        request=_request(access.external),
        rows=None,
        scope=access.scope,
        surface=access.surface,
    )


def _request(external: ExternalAccess | None) -> EventRequest:
    user_agent = request.headers.get("User-Agent", "")[:MAX_USER_AGENT]
    return EventRequest(
        id=current_state().request_id or "",
        ip=external.ip if external else request.remote_addr,
        method=request.method,
        path=_printable(request.path[:MAX_PATH]),
        user_agent=_printable(user_agent) or None,
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


def _printable(text: str) -> str:
    """PostgreSQL takes no NUL and a log reader no control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
