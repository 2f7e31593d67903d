"""Compare what clients were told with the ledger: one event for each access, and no others."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from uuid import UUID, uuid4

from flask import Flask
from sqlalchemy import func, select

from reliability.faults.history import Harm, History, SentRequest
from webapp.audit.models import AuditEventRow, QuarantineRow
from webapp.db.scopes import GlobalScope, LedgerScope
from webapp.extensions import db

Discrepancy = Literal[
    "lost",
    "doubled",
    "unrecorded",
    "contradictory",
    "unrequested",
    "errors",
    "wrong bodies",
    "unexpected refusals",
    "held too long",
]
"""lost: a receipt without an event. doubled: a request with several events. unrecorded: an access
that was answered without a receipt. contradictory: an event that contradicts the answer.
unrequested: an event that belongs to no elevated request. errors: any 5xx but a refusal (503).
unexpected refusals: requests that were refused or not answered, and no fault explains it. held too
long: recording took longer than AUDIT_TIMEOUT."""
DISCREPANCIES: tuple[Discrepancy, ...] = get_args(Discrepancy)

MARGIN = 1.0
"""Seconds that a thread may wait for its turn while everything fails and starts again. They are not
counted as recording."""

EXAMPLES = 8
DATABASE, JOURNAL = "database_unavailable", "audit_unavailable"

_HELD = re.compile(r'\baudit_ms"?[=:]([\d.]+)')
_REQUEST = re.compile(r'\bx_request_id(?:=|":")([^\s"]+)')
"""As lines for people have them, and lines in JSON."""

_COLOUR = re.compile(r"\x1b\[[\d;]*m")


@dataclass(frozen=True)
class Recorded:
    """An event in the ledger."""

    id: UUID
    request_id: str
    outcome: str
    origin: tuple[UUID, int]
    status: int | None
    repeats: int


@dataclass
class FaultSummary:
    """What happened from each fault of one kind until the next fault was injected, added up."""

    times: int = 0
    accesses: int = 0
    """Elevated requests, answered or not."""
    acknowledged: int = 0
    refused: int = 0
    """Elevated requests that were refused or had no answer."""
    longest: float = 0.0
    held: float = 0.0
    """The most seconds that recording held a request."""
    held_stopped: float = 0.0
    """The same for requests during which the web processes were stopped."""
    plain: int = 0
    plain_unanswered: int = 0
    plain_longest: float = 0.0
    discrepancies: Counter[Discrepancy] = field(default_factory=Counter)
    plain_discrepancies: Counter[Discrepancy] = field(default_factory=Counter)
    """The discrepancies of plain lists alone."""


@dataclass
class Comparison:
    rows: dict[str, FaultSummary] = field(default_factory=lambda: defaultdict(FaultSummary))
    examples: dict[Discrepancy, list[str]] = field(default_factory=lambda: defaultdict(list))
    overstated: int = 0
    """Accesses that were refused because the disk was too slow, and that the ledger has as served:
    the event was on its way to the disk and arrived there later."""

    @property
    def total(self) -> FaultSummary:
        total = FaultSummary()
        for row in self.rows.values():
            total.times += row.times
            total.accesses += row.accesses
            total.acknowledged += row.acknowledged
            total.refused += row.refused
            total.longest = max(total.longest, row.longest)
            total.held = max(total.held, row.held)
            total.held_stopped = max(total.held_stopped, row.held_stopped)
            total.plain += row.plain
            total.plain_unanswered += row.plain_unanswered
            total.plain_longest = max(total.plain_longest, row.plain_longest)
            total.discrepancies += row.discrepancies
            total.plain_discrepancies += row.plain_discrepancies
        return total

    def add(self, fault: str, kind: Discrepancy, example: str, times: int = 1) -> None:
        self.rows[fault].discrepancies[kind] += times
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(f"{fault}: {example}")


def read_ledger(app: Flask, run: str) -> list[Recorded]:
    """Read the events of a run's requests."""
    row = AuditEventRow
    sent = row.event["request"]["x_request_id"].as_string()
    columns = (row.id, sent, row.outcome, row.origin_journal, row.origin_seq, row.event)
    with app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        found = db.session.execute(select(*columns).where(sent.startswith(f"{run}.")))
        return [
            Recorded(
                id_, request_id, outcome, (journal, seq), event["http_status"], event["repeats"]
            )
            for id_, request_id, outcome, journal, seq, event in found
        ]


def count_quarantined(app: Flask) -> int:
    with app.app_context(), db.scoped(LedgerScope()):
        return db.session.scalars(select(func.count(QuarantineRow.digest))).one()


def read_waits(log: Path) -> Mapping[str, float]:
    """Read from the web processes' log how many seconds recording held each request."""
    waits: dict[str, float] = {}
    with log.open(errors="replace") as lines:
        for line in lines:
            plain = _COLOUR.sub("", line)
            held, request = _HELD.search(plain), _REQUEST.search(plain)
            if held is not None and request is not None:
                waits[request[1]] = float(held[1]) / 1000
    return waits


def compare(
    requests: Sequence[SentRequest],
    recorded: Iterable[Recorded],
    history: History,
    waits: Mapping[str, float],
    audit_timeout: float,
) -> Comparison:
    result = Comparison()
    for period in history:
        result.rows[period.fault.name].times += 1
    by_request: defaultdict[str, list[Recorded]] = defaultdict(list)
    for event in recorded:
        by_request[event.request_id].append(event)
    for request in requests:
        fault = history.last_before(request.ended)
        events = by_request.pop(request.request_id, [])
        _count(result.rows[fault], request, waits, stopped=history.stopped_web(request))
        if request.code == JOURNAL:
            result.overstated += any(event.outcome == "served" for event in events)
        for kind, example in _discrepancies(request, events, history):
            result.add(fault, kind, f"{request.request_id}: {example}")
            result.rows[fault].plain_discrepancies[kind] += not request.is_access
        held = waits.get(request.request_id, 0.0)
        if held > audit_timeout + MARGIN and not history.stopped_web(request):
            result.add(fault, "held too long", f"{request.request_id}: {held:.1f} s")
    for request_id, events in by_request.items():
        result.add("?", "unrequested", f"{request_id}, which nobody sent", len(events))
    return result


def _count(
    row: FaultSummary, request: SentRequest, waits: Mapping[str, float], *, stopped: bool
) -> None:
    if not request.is_access:
        row.plain += 1
        row.plain_unanswered += request.status is None or request.status == 503
        row.plain_longest = max(row.plain_longest, request.seconds)
        return
    row.accesses += 1
    row.acknowledged += request.is_acknowledged
    row.refused += request.status is None or request.status == 503
    row.longest = max(row.longest, request.seconds)
    held = waits.get(request.request_id, 0.0)
    if stopped:
        row.held_stopped = max(row.held_stopped, held)
    else:
        row.held = max(row.held, held)


def _discrepancies(
    request: SentRequest, events: Sequence[Recorded], history: History
) -> Iterator[tuple[Discrepancy, str]]:
    if request.wrong is not None:
        yield "wrong bodies", request.wrong
    if request.status is not None and request.status >= 500 and request.status != 503:
        yield "errors", f"{request.status} {request.code}"
    if _is_unexplained(request, history):
        yield (
            "unexpected refusals",
            f"{request.status} {request.code} after {request.seconds:.1f} s",
        )
    if not request.is_access:
        if events or request.receipts:
            yield "unrequested", f"a plain list has {events}"
        return
    ids = {str(event.id) for event in events}
    for receipt in request.receipts:
        if receipt not in ids:
            yield "lost", f"{receipt}, answered {request.status}"
    if request.status is not None and request.status != 503 and not request.receipts:
        yield "unrecorded", f"answered {request.status} {request.code} without a receipt"
    for extra in events[1:]:
        yield "doubled", f"{extra} beside {events[0]}"
    if len(request.receipts) > 1:
        yield "doubled", f"{len(request.receipts)} receipts"
    for event in events[:1]:
        yield from (("contradictory", what) for what in _contradictions(request, event))


def _contradictions(request: SentRequest, event: Recorded) -> Iterator[str]:
    if event.repeats != 1:
        yield f"{event.repeats} repeats"
    if request.is_acknowledged:
        expected = "denied" if request.effect == "denied" else _outcome(request.status or 0)
        if (event.outcome, event.status) != (expected, request.status):
            yield f"{event.outcome} {event.status}, but {expected} {request.status} was answered"


def _outcome(status: int) -> str:
    return "served" if status < 400 else "failed"


def _is_unexplained(request: SentRequest, history: History) -> bool:
    harm: Harm
    if request.status is None:
        harm = "answers"
    elif request.code == JOURNAL:
        harm = "journal"
    elif request.code == DATABASE:
        harm = "database"
    else:
        # Any other error is unexpected. A caller without permission expects a denial.
        denied = request.effect == "denied"
        return request.status != 403 if denied else request.status >= 400
    return not history.explains(request, harm)
