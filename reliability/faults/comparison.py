"""What clients were told, held against the ledger: one event for each access, and none beside."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from uuid import UUID, uuid4

from flask import Flask
from sqlalchemy import func, select

from reliability.faults.faults import Harm
from reliability.faults.requests import ElevationRequest, History
from webapp.audit.models import AuditEventRow, QuarantineRow
from webapp.db.scopes import GlobalScope, LedgerScope
from webapp.extensions import db

Wrong = Literal[
    "lost",
    "doubled",
    "unrecorded",
    "told otherwise",
    "unasked",
    "errors",
    "wrong bodies",
    "unexpected refusals",
    "held too long",
]
"""lost: a receipt without its event. doubled: a request with more than one. unrecorded: an answer
of an access without a receipt. told otherwise: an event that says something else than its answer.
unasked: an event of no elevated request. errors: any 5xx but a refusal (503). unexpected refusals:
requests refused, or without an answer, though no fault explains that. held too long: recording took
longer than AUDIT_TIMEOUT."""
WRONGS: tuple[Wrong, ...] = get_args(Wrong)

MARGIN = 1.0
"""Seconds that a thread may wait for its turn, on a machine where everything fails and starts
again, and that are therefore not the recording's."""

EXAMPLES = 8
DATABASE, JOURNAL = "database_unavailable", "audit_unavailable"

_LINE = re.compile(r"audit_ms=([\d.]+).*request_id=(\S+)")
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
class Row:
    """What happened from one kind of fault until the next one struck, all its times together."""

    times: int = 0
    accesses: int = 0
    """Elevated requests, answered or not."""
    acknowledged: int = 0
    refused: int = 0
    """Those of them that were refused, or had no answer."""
    longest: float = 0.0
    held: float = 0.0
    """Seconds that recording held a request, at most."""
    held_stopped: float = 0.0
    """The same, of requests during which the web processes stood still."""
    plain: int = 0
    plain_unanswered: int = 0
    plain_longest: float = 0.0
    wrongs: Counter[Wrong] = field(default_factory=Counter)
    plain_wrongs: Counter[Wrong] = field(default_factory=Counter)
    """Those of them that were plain lists'."""


@dataclass
class Comparison:
    rows: dict[str, Row] = field(default_factory=lambda: defaultdict(Row))
    examples: dict[Wrong, list[str]] = field(default_factory=lambda: defaultdict(list))
    overstated: int = 0
    """Accesses that were refused since the disk did not answer in time, and that stand in the
    ledger as served: what was on its way to the disk came there in the end."""

    @property
    def total(self) -> Row:
        total = Row()
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
            total.wrongs += row.wrongs
            total.plain_wrongs += row.plain_wrongs
        return total

    def note(self, fault: str, wrong: Wrong, example: str, times: int = 1) -> None:
        self.rows[fault].wrongs[wrong] += times
        if len(self.examples[wrong]) < EXAMPLES:
            self.examples[wrong].append(f"{fault}: {example}")


def read_ledger(app: Flask, run: str) -> list[Recorded]:
    """The events of a run's requests."""
    row = AuditEventRow
    columns = (row.id, row.request_id, row.outcome, row.origin_journal, row.origin_seq, row.event)
    with app.app_context(), db.session.scoped(GlobalScope(access_id=uuid4())):
        found = db.session.execute(select(*columns).where(row.request_id.startswith(f"{run}.")))
        return [
            Recorded(
                id_, request_id, outcome, (journal, seq), event["http_status"], event["repeats"]
            )
            for id_, request_id, outcome, journal, seq, event in found
        ]


def count_quarantined(app: Flask) -> int:
    with app.app_context(), db.session.scoped(LedgerScope()):
        return db.session.scalars(select(func.count(QuarantineRow.digest))).one()


def read_waits(log: Path) -> Mapping[str, float]:
    """Seconds that recording held each request, as the web processes have logged it."""
    waits: dict[str, float] = {}
    with log.open(errors="replace") as lines:
        for line in lines:
            found = _LINE.search(_COLOUR.sub("", line))
            if found is not None:
                waits[found[2]] = float(found[1]) / 1000
    return waits


def reckon(
    asked: Sequence[ElevationRequest],
    recorded: Iterable[Recorded],
    history: History,
    waits: Mapping[str, float],
    audit_timeout: float,
) -> Comparison:
    result = Comparison()
    for struck in history:
        result.rows[struck.fault.name].times += 1
    by_request: defaultdict[str, list[Recorded]] = defaultdict(list)
    for event in recorded:
        by_request[event.request_id].append(event)
    for request in asked:
        fault = history.last_before(request.ended)
        events = by_request.pop(request.request_id, [])
        _count(result.rows[fault], request, waits, stopped=history.stopped_web(request))
        if request.code == JOURNAL:
            result.overstated += any(event.outcome == "served" for event in events)
        for wrong, example in _wrongs(request, events, history):
            result.note(fault, wrong, f"{request.request_id}: {example}")
            result.rows[fault].plain_wrongs[wrong] += not request.is_access
        held = waits.get(request.request_id, 0.0)
        if held > audit_timeout + MARGIN and not history.stopped_web(request):
            result.note(fault, "held too long", f"{request.request_id}: {held:.1f} s")
    for request_id, events in by_request.items():
        result.note("?", "unasked", f"{request_id}, which nobody sent", len(events))
    return result


def _count(
    row: Row, request: ElevationRequest, waits: Mapping[str, float], *, stopped: bool
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


def _wrongs(
    request: ElevationRequest, events: Sequence[Recorded], history: History
) -> Iterator[tuple[Wrong, str]]:
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
            yield "unasked", f"a plain list has {events}"
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
        yield from (("told otherwise", what) for what in _otherwise(request, event))


def _otherwise(request: ElevationRequest, event: Recorded) -> Iterator[str]:
    if event.repeats != 1:
        yield f"{event.repeats} repeats"
    if request.is_acknowledged:
        expected = "denied" if request.effect == "denied" else _outcome(request.status or 0)
        if (event.outcome, event.status) != (expected, request.status):
            yield f"{event.outcome} {event.status}, but {expected} {request.status} was answered"


def _outcome(status: int) -> str:
    return "served" if status < 400 else "failed"


def _is_unexplained(request: ElevationRequest, history: History) -> bool:
    harm: Harm
    if request.status is None:
        harm = "answers"
    elif request.code == JOURNAL:
        harm = "journal"
    elif request.code == DATABASE:
        harm = "database"
    else:
        # Anything else than what was asked for; a denial is what a trespasser asks for.
        denied = request.effect == "denied"
        return request.status != 403 if denied else request.status >= 400
    return not history.excuses(request, harm)
