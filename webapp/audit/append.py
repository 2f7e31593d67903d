"""The ledger: committed events. Appending is idempotent by event id; nothing is ever rewritten.

A delivery is taken whole or not at all, but for what in it no attempt could make better: that goes
to the quarantine, and raises an alarm.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from hashlib import sha256
from operator import attrgetter

import orjson
import structlog
from prometheus_client import Counter
from sqlalchemy import ARRAY, Text, Uuid, bindparam, cast, column, func, literal, select
from sqlalchemy.dialects.postgresql import JSON, Insert, insert
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from webapp.audit.event import (
    AuditEvent,
    EventError,
    EventOrigin,
    dump_event,
    has_valid_mac,
    load_event,
)
from webapp.audit.models import AuditEventRow, QuarantineRow
from webapp.db import row_security
from webapp.db.base import Base

log = structlog.get_logger()

COMMITTED = Counter("sightline_audit_committed_total", "Events appended to the ledger.")
DUPLICATES = Counter("sightline_audit_duplicates_total", "Events delivered again, and ignored.")
QUARANTINED = Counter(
    "sightline_audit_quarantined_total", "Deliveries that were no event of ours, or were refused."
)

AHEAD = 2
"""Months whose partitions are made before they begin."""

OWN_JOURNAL = row_security.OWN_JOURNAL
"""The origin of events that are recorded here, with the change that they record: it has no file."""

_OWN_TURN = 0x5167711E
"""The advisory lock that one takes who appends to it."""

_LIMIT_EXCEEDED = "54"
"""The class of SQLSTATE that a row has which PostgreSQL has no room for."""


_COMMITTED = select(func.string_agg(cast(AuditEventRow.id, Text), literal(","))).where(
    AuditEventRow.id == func.any(cast(bindparam("ids", type_=Text), ARRAY(Uuid)))
)


@dataclass(frozen=True)
class Quarantined:
    problem: str
    delivery: bytes


@dataclass(frozen=True)
class Received:
    """What became of a delivery, once its transaction has committed."""

    appended: int
    duplicates: int
    quarantined: tuple[Quarantined, ...]


def receive(session: Session, delivery: object, key: bytes) -> Received:
    """Append a delivery's events whose MAC holds, and put the rest into quarantine.

    Raises what SQLAlchemy does where nothing is wrong with the events, but with the database. The
    caller commits, and then says so to `count_received`.
    """
    events, refused = _open_all(delivery, key)
    ensure_partitions(session, {event.occurred_at.date() for event in events})
    unfit: list[Quarantined] = []
    try:
        with session.begin_nested():
            appended = _append(session, events)
    except DBAPIError as error:
        _raise_unless_unfit(error)
        appended, unfit = _append_each(session, events)
    duplicates = len(events) - len(unfit) - appended
    _quarantine(session, [*refused, *unfit])
    return Received(appended, duplicates, (*refused, *unfit))


def append_own(session: Session, events: Sequence[AuditEvent]) -> None:
    """Append what no request has done: recorded if, and only if, the caller commits what it did.

    One at a time until then, so that a number is there as soon as a later one is.
    """
    if not events:
        return
    ensure_partitions(session, {event.occurred_at.date() for event in events})
    session.execute(select(func.pg_advisory_xact_lock(_OWN_TURN)))
    numbers = select(func.coalesce(func.max(AuditEventRow.origin_seq), 0))
    last = session.scalars(numbers.where(AuditEventRow.origin_journal == OWN_JOURNAL)).one()
    numbered = [
        replace(event, origin=EventOrigin(OWN_JOURNAL, number))
        for number, event in enumerate(events, last + 1)
    ]
    _append(session, numbered)


def count_received(received: Received) -> None:
    COMMITTED.inc(received.appended)
    DUPLICATES.inc(received.duplicates)
    QUARANTINED.inc(len(received.quarantined))
    for item in received.quarantined:
        log.error("audit_event_quarantined", problem=item.problem)


def find_committed(session: Session, ids: Sequence[str]) -> set[str]:
    """Those of the events' ids that the ledger has."""
    # As one text, there and back: a parameter and a value each would take longer than the question.
    found = session.scalars(_COMMITTED, {"ids": f"{{{','.join(ids)}}}"}).one()
    return set(found.split(",")) if found else set()


def ensure_partitions(session: Session, days: Iterable[date]) -> None:
    """Make the partitions that are missing for these days (UTC)."""
    for first in sorted({day.replace(day=1) for day in days}):
        session.execute(select(func.ensure_audit_partition(first)))


def has_partition(session: Session, day: date) -> bool:
    name = f"public.audit_events_{day:%Y%m}"
    return session.scalars(select(func.to_regclass(name).is_not(None))).one()


def count_quarantined(session: Session, since: timedelta) -> tuple[int, int]:
    """How many deliveries are in quarantine, and how many of them came within `since`."""
    recent = QuarantineRow.received_at > func.clock_timestamp() - since
    counts = select(func.count(QuarantineRow.digest), func.count().filter(recent))
    total, new = session.execute(counts).one()
    return total, new


def months_ahead(today: date) -> list[date]:
    """The first days of this month and of the AHEAD that follow."""
    months = (today.year * 12 + today.month - 1 + ahead for ahead in range(AHEAD + 1))
    return [date(month // 12, month % 12 + 1, 1) for month in months]


def _open_all(delivery: object, key: bytes) -> tuple[list[AuditEvent], list[Quarantined]]:
    """The events by their ids, so that deliveries of the same ones, at once and each in its own
    order, do not lock each other out."""
    events, refused = [], []
    for item in delivery if isinstance(delivery, list) else [delivery]:
        try:
            events.append(_open(item, key))
        except EventError as error:
            refused.append(Quarantined(str(error), _bytes(item)))
    return sorted(events, key=attrgetter("id")), refused


def _open(item: object, key: bytes) -> AuditEvent:
    match item:
        case [str() as text, str() as mac]:
            data = text.encode(errors="replace")  # a lone surrogate, which no MAC of ours covers
        case _:
            raise EventError("not an event and its MAC")
    if not has_valid_mac(data, mac, key):
        raise EventError("the MAC does not match")
    return load_event(data)


def _append(session: Session, events: Sequence[AuditEvent]) -> int:
    """Append what is not there yet, and return how many that were."""
    if not events:
        return 0
    result = session.execute(_APPEND, {"rows": orjson.dumps(list(map(_row, events))).decode()})
    appended: int = result.rowcount  # type: ignore[attr-defined]  # a cursor result, as for any DML
    return appended


def _make_append() -> Insert:
    """One statement for any number of rows, which come as one document: `on conflict` makes
    SQLAlchemy send several rows one by one."""
    table = Base.metadata.tables[AuditEventRow.__tablename__]
    columns = [c for c in table.columns if c.server_default is None]
    rows = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON)).table_valued(
        *(column(c.name, c.type) for c in columns)
    )
    chosen = select(rows.render_derived(name="rows", with_types=True))
    return insert(table).from_select(columns, chosen).on_conflict_do_nothing()


_APPEND = _make_append()


def _append_each(session: Session, events: Sequence[AuditEvent]) -> tuple[int, list[Quarantined]]:
    """One by one, since one of them is what the database refuses."""
    appended, refused = 0, []
    for event in events:
        try:
            with session.begin_nested():
                appended += _append(session, [event])
        except DBAPIError as error:
            _raise_unless_unfit(error)
            problem = f"the ledger refused it: {type(error).__name__}"
            refused.append(Quarantined(problem, dump_event(event)))
    return appended, refused


def _raise_unless_unfit(error: DBAPIError) -> None:
    """Whatever is not the event's own fault may go well at the next attempt."""
    code: str = getattr(error.orig, "pgcode", None) or ""
    if not isinstance(error, (DataError, IntegrityError)) and not code.startswith(_LIMIT_EXCEEDED):
        raise error


def _quarantine(session: Session, refused: Iterable[Quarantined]) -> None:
    """In one order too, for the same reason as events."""
    for item in sorted(refused, key=lambda item: sha256(item.delivery).digest()):
        values = {
            "digest": sha256(item.delivery).digest(),
            "problem": item.problem,
            "delivery": item.delivery,
        }
        session.execute(insert(QuarantineRow).values(values).on_conflict_do_nothing())


def _bytes(item: object) -> bytes:
    try:
        return orjson.dumps(item)
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        return repr(item).encode(errors="backslashreplace")


def _row(event: AuditEvent) -> dict[str, object]:
    assert event.origin is not None  # noqa: S101 - `load_event` knows no event without
    return {
        "id": event.id,
        "tenant_id": event.scope.tenant_id,
        "tenant": event.scope.tenant,
        "occurred_at": event.occurred_at,
        "kind": event.kind,
        "actor_id": event.actor.id,
        "actor_email": event.actor.email,
        "surface": event.surface,
        "reason_code": event.reason.code if event.reason else None,
        "ticket": event.reason.ticket if event.reason else None,
        "scope_kind": event.scope.kind,
        "effect": event.decision.effect,
        "outcome": event.outcome,
        "request_id": event.request.id,
        "origin_journal": event.origin.journal,
        "origin_seq": event.origin.seq,
        "excluded_tenant_ids": list(event.decision.excluded_tenant_ids),
        "event": orjson.Fragment(dump_event(event)),
    }
