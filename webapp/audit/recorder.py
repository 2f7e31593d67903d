"""The only exemption in: a request's accesses, each recorded once, finalized before any byte of
the answer.

`flask.g` holds one event for each (actor, surface, reason). Entering the same surface again counts
as a repeat. The journal is told when an access begins and, when the answer is known, how it ended:
only then does the answer leave, with the events' ids. What becomes of the request's own transaction
changes nothing. An access that nobody answers, since its request or its process died, stands in the
ledger as interrupted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from time import monotonic
from typing import ClassVar
from uuid import UUID

import structlog
from flask import Flask, Response
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
    format_id,
)
from webapp.audit.journal.service import JournalFailed
from webapp.audit.relay.pipeline import current_journal
from webapp.context import current_request, current_state
from webapp.extensions import current_settings
from webapp.http.errors import AuditUnavailable, problem
from webapp.lean import add_header
from webapp.tally import tally

RECEIPT_HEADER = "Sightline-Audit"
EXCLUDED_HEADER = "Sightline-Excluded"
_NOTES = "audit"
"""Where they are in `flask.g`."""

_FINALIZED = "sightline.audit_settled"
MAX_PATH, MAX_USER_AGENT = 2048, 512

log = structlog.get_logger()

ACCESSES = Counter(
    "sightline_audit_accesses_total",
    "Accesses recorded, by surface and outcome.",
    ("surface", "outcome"),
)
REFUSED = Counter(
    "sightline_audit_refused_total", "Requests refused, as their accesses could not be recorded."
)
LOST = Counter(
    "sightline_audit_lost_total",
    "Events of refused accesses that had no room to wait for the disk.",
)
UNVOUCHED = Counter(
    "sightline_audit_unvouched_total",
    "Answers of open surfaces that left before their accesses were recorded.",
)


@dataclass(frozen=True)
class ExternalAccess:
    """That an access is another service's, which has asked whether it may show something. It is
    told the access's id again whenever it asks again, so that what has begun must be on disk."""

    ip: str | None
    """Where the person is, as the service says."""

    SURFACE: ClassVar = "elsewhere"
    """What metrics count it as: services name as many surfaces as they like."""


_Key = tuple[UUID, str, Reason | None, EventScope | None]
"""An access is at one scope; what one request changes in several is recorded for each."""


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
    """Whether it may be answered even where it cannot be recorded now."""
    elsewhere: ExternalAccess | None = None

    @cached_property
    def key(self) -> _Key:
        changed = self.scope if self.kind == "change" else None
        return self.actor.id, self.surface, self.reason, changed

    @cached_property
    def template(self) -> AuditEvent:
        """Its event, unanswered, as far as it is the same for all accesses like this one."""
        return AuditEvent(
            actor=self.actor,
            decision=self.decision,
            http_status=None,
            id=UUID(int=0),
            kind=self.kind,
            occurred_at=datetime.min.replace(tzinfo=UTC),
            outcome=_outcome(self, None),
            reason=self.reason,
            repeats=1,
            request=EventRequest(id="", ip=None, method="", path="", user_agent=None),
            rows=None,
            scope=self.scope,
            surface=self.surface,
        )


@dataclass
class _Noted:
    """What a request has done of one access so far."""

    access: Access
    begun: AuditEvent
    """What it is if nobody answers."""
    rows: int | None = None
    repeats: int = 1

    def answered(self, status: int | None) -> AuditEvent:
        return self.begun.amended(
            outcome=_outcome(self.access, status),
            http_status=status,
            rows=self.rows,
            repeats=self.repeats,
        )


_Notes = dict[_Key, _Noted]


class ScopeChanged(RuntimeError):
    """One request used one surface, for one reason, in two scopes: a programming error, since a
    single record cannot tell both. Give the second access a surface of its own."""


class TooLate(RuntimeError):
    """A surface was entered after the answer had been vouched for, by a stream for one: a
    programming error, since what it shows would leave without a record."""


def init_app(app: Flask) -> None:
    app.after_request(finalize)
    app.teardown_request(_finalize_interrupted)


def note(access: Access) -> UUID:
    """Record an access, or count it as a repeat of one noted in this request; returns its event id.

    Raises `AuditUnavailable` where a change cannot be recorded, or another service's access: it
    must not be made then.
    """
    if _FINALIZED in current_request().environ:
        raise TooLate(access.surface)
    notes: _Notes = current_state().setdefault(_NOTES, {})
    noted = notes.get(access.key)
    if noted is None:
        noted = notes[access.key] = _begin(access)
    elif noted.access != access:
        raise ScopeChanged(access.surface)
    else:
        noted.repeats += 1
    return noted.begun.id


def count_rows(surface: str, rows: int) -> None:
    """Say how many rows the answer shows of a surface; repeats add up."""
    notes: _Notes = current_state().get(_NOTES, {})
    for noted in notes.values():
        if noted.access.surface == surface:
            noted.rows = (noted.rows or 0) + rows


def finalize(response: Response) -> Response:
    """Have the request's accesses recorded, or answer 503 in place of what they would vouch for."""
    noted: _Notes | None = current_state().pop(_NOTES, None)
    current_request().environ[_FINALIZED] = True
    if not noted:
        return response
    events = [entry.answered(response.status_code) for entry in noted.values()]
    try:
        _wait_for(lambda within: current_journal().finalize(events, within))
    except Exception as error:  # whatever it is, what was not recorded is not shown
        return _unrecorded(noted, events, response, error)
    for entry, event in zip(noted.values(), events, strict=True):
        counted_as = ExternalAccess.SURFACE if entry.access.elsewhere else event.surface
        tally.count(_accesses(counted_as, event.outcome))
    receipts = ", ".join([format_id(event.id) for event in events])
    add_header(response.headers, RECEIPT_HEADER, receipts)
    left_out = [len(e.decision.excluded_tenant_ids) for e in events if e.scope.kind == "global"]
    if left_out:
        add_header(response.headers, EXCLUDED_HEADER, str(max(left_out)))
    return response


def _begin(access: Access) -> _Noted:
    """Tell the journal that an access begins. What is denied has no middle to die in; a change
    waits for the disk, since its transaction may commit before the answer is known. So does another
    service's access, denied or not, since the answer itself is committed."""
    event, journal = _event(access), current_journal()
    noted = _Noted(access, event)
    if access.decision.effect != "allowed" and access.elsewhere is None:
        return noted
    try:
        if access.kind == "change" or access.elsewhere is not None:
            _wait_for(lambda within: journal.begin_durably(event, within))
        else:
            journal.begin(event)
    except JournalFailed as error:
        log.error("audit_not_begun", events=[str(event.id)], exc_info=error)
        if access.open and access.kind == "access":
            return noted
        REFUSED.inc()
        _finalize_later([noted.answered(AuditUnavailable.status)])
        raise AuditUnavailable from error
    return noted


def _wait_for(write: Callable[[float], None]) -> None:
    """Write within what is left of AUDIT_TIMEOUT: all the waiting of a request counts together."""
    state, began = current_state(), monotonic()
    waited = state.get("audit_waited", 0.0)
    try:
        write(max(0.0, current_settings().audit_timeout - waited))
    finally:
        state["audit_waited"] = waited + monotonic() - began


def _unrecorded(
    noted: _Notes, events: list[AuditEvent], response: Response, error: Exception
) -> Response:
    """What leaves when the journal did not take the events: nothing of a closed surface."""
    log.error("audit_not_recorded", events=[str(event.id) for event in events], exc_info=error)
    if all(entry.access.open for entry in noted.values()) and _finalize_later(events):
        UNVOUCHED.inc()
        return response
    REFUSED.inc()
    refusal = problem(AuditUnavailable())
    _finalize_later([entry.answered(refusal.status_code) for entry in noted.values()])
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
    """Record what no answer was made for; and leave `g` to the next request, should both run in
    an application context that somebody else has pushed."""
    noted: _Notes | None = current_state().pop(_NOTES, None)
    if noted:
        _finalize_later([entry.answered(None) for entry in noted.values()])


def _event(access: Access) -> AuditEvent:
    """The access as it stands while nobody has answered."""
    asked = current_request()
    return access.template.amended(
        id=uuid7(),
        occurred_at=datetime.now(UTC),
        request=EventRequest(
            id=current_state()["request_id"],
            ip=access.elsewhere.ip if access.elsewhere else asked.remote_addr,
            method=asked.method,
            path=_printable(asked.path[:MAX_PATH]),
            user_agent=_printable(asked.environ.get("HTTP_USER_AGENT", "")[:MAX_USER_AGENT])
            or None,
        ),
    )


@lru_cache(1024)
def _accesses(surface: str, outcome: Outcome) -> Counter:
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
