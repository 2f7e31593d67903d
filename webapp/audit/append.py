"""The append to the ledger, which keeps the committed events.

It is idempotent by event id, and never rewrites an event. A delivery is appended whole or not at
all. The exception is an item that no further attempt could append: it goes into quarantine, and
raises an alarm. So does an event whose id or number another event has: it is kept beside the ledger
as a contradiction, since nobody can tell which of the two is true.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from hashlib import sha256
from operator import attrgetter
from time import monotonic
from uuid import UUID

import orjson
import structlog
from prometheus_client import Counter
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    Text,
    Uuid,
    bindparam,
    cast,
    column,
    func,
    literal,
    select,
    table,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSON, OID, insert
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from webapp.audit.event import (
    AuditEvent,
    EventError,
    EventOrigin,
    dump_event,
    event_key,
    load_members,
)
from webapp.audit.models import AuditEventRow, ContradictionRow, ExcludedSetRow, QuarantineRow
from webapp.audit.signature import (
    Signed,
    check_signatures,
    load_journaled,
    named_key,
    sign_event,
)
from webapp.audit.signing_keys import read_keys
from webapp.db import row_security
from webapp.db.session import ScopedSession
from webapp.db.turns import take_turn
from webapp.settings import current_settings

log = structlog.get_logger()

COMMITTED = Counter("sightline_audit_committed_total", "Events appended to the ledger.")
DUPLICATES = Counter("sightline_audit_duplicates_total", "Events delivered again, and ignored.")
QUARANTINED = Counter(
    "sightline_audit_quarantined_total",
    "Items that were no valid event, or that the ledger refused.",
)
CONTRADICTIONS = Counter(
    "sightline_audit_contradictions_total",
    "Events whose id or number another event in the ledger has.",
)
DISCARDED = Counter(
    "sightline_audit_discarded_total", "Refused items for which quarantine had no room."
)

QUARANTINE_ROWS = 5_000
QUARANTINE_BYTES = 32 * 2**20
"""What quarantine has room for: of items under a valid MAC or signature, and as much again of all
others. So whoever fills it with the latter crowds none of the former out."""

QUARANTINED_BYTES = 2**16
"""Bytes that are kept of one item."""

AHEAD = 2
"""Months whose partitions are made before they begin."""

OWN_JOURNAL = row_security.OWN_JOURNAL
"""The journal of events that are committed in the transaction that they record. It has no file."""

_LIMIT_EXCEEDED = "54"
"""The SQLSTATE class of a row that exceeds one of PostgreSQL's limits."""


_TAKEN = "23505"
"""The SQLSTATE of a number that another event has: an id that one has is skipped instead."""


def _make_committed() -> Select[str | None]:
    """Make the query for the keys of those of some events that are in the ledger, or beside it."""
    ids = func.any(cast(bindparam("ids", type_=Text), ARRAY(Uuid)))
    found = union_all(
        select(AuditEventRow.id, AuditEventRow.digest).where(AuditEventRow.id == ids),
        select(ContradictionRow.event_id, ContradictionRow.digest).where(
            ContradictionRow.event_id == ids
        ),
    ).subquery()
    key = cast(found.c.id, Text) + literal(":") + func.encode(found.c.digest, literal("hex"))
    return select(func.string_agg(key, literal(",")))


_COMMITTED = _make_committed()

_DATABASES = table("pg_database", column("oid"), column("datname"))
# Of a server in recovery, a replica, the first function raises an error: it could have events that
# its primary has lost, and lose others when it becomes one.
_HISTORY: ColumnElement[str] = func.concat_ws(
    "/",
    func.substr(func.pg_walfile_name(func.pg_current_wal_lsn()), 1, 8),
    func.date_part("epoch", func.pg_postmaster_start_time()),
    select(_DATABASES.c.oid)
    .where(_DATABASES.c.datname == func.current_database())
    .scalar_subquery(),
    func.to_regclass("public.audit_events").cast(OID),
)
"""What changes where the ledger may have lost events that it had: the timeline, which a promotion
and a recovery to a point in time begin anew; the server's start; and the identity of the database
and the table, which a restored dump makes anew."""

_CONFIRMED = _COMMITTED.add_columns(_HISTORY)


@dataclass(frozen=True)
class Confirmation:
    """What the primary's ledger has of some events."""

    committed: set[str]
    """The keys of the events that it has."""
    history: str
    """The same text as in an earlier confirmation, unless the ledger may have lost since what it
    had then: by a failover, or by a restore."""
    at: float = field(default_factory=monotonic)
    """When it was asked."""


@dataclass(frozen=True)
class SignedEvent:
    """An event with its canonical bytes and its origin signature."""

    event: AuditEvent
    data: bytes
    signature: str


@dataclass(frozen=True)
class Quarantined:
    problem: str
    delivery: bytes
    authentic: bool = False
    """Whether it came under a valid MAC or signature."""


@dataclass(frozen=True)
class Received:
    """The result of a delivery, once its transaction has committed."""

    appended: int
    duplicates: int
    quarantined: tuple[Quarantined, ...]
    discarded: int = 0
    """How many of those quarantine had no room for."""
    left: int = 0
    """Events that were left for another delivery, since the ledger lacks a set that they name."""
    contradictions: tuple[UUID, ...] = ()
    """The ids of events that contradict one in the ledger."""
    known: tuple[UUID, ...] = ()
    """The ids of events that the ledger has now, appended or duplicates."""


def receive(session: Session, delivery: object) -> Received:
    """Append the events of a delivery that web processes have signed, and put the rest into
    quarantine.

    Raises SQLAlchemy's error where the database is at fault and not an event. The caller commits,
    and then calls `count_received`.
    """
    opened = _open_all(session, delivery)
    refused = opened.refused
    known = _keep_sets(session, opened)
    signed = [each for each in opened.signed if _digest_of(each.event) in known]
    ensure_partitions(session, {each.event.occurred_at.date() for each in signed})
    unfit: dict[UUID, Quarantined] = {}
    try:
        with session.begin_nested():
            appended = _append(session, signed)
    except DBAPIError as error:
        _raise_unless_unfit(error)
        appended, unfit = _append_each(session, signed)
    fit = [each for each in signed if each.event.id not in unfit]
    contradictions = _keep_contradictions(session, fit) if appended < len(fit) else ()
    quarantined = (*refused, *unfit.values())
    return Received(
        appended,
        duplicates=len(fit) - appended - len(contradictions),
        quarantined=quarantined,
        discarded=_quarantine(session, quarantined),
        left=len(opened.signed) - len(signed),
        contradictions=contradictions,
        known=tuple([each.event.id for each in fit if each.event.id not in contradictions]),
    )


def set_aside(
    session: Session, problem: str, message: bytes, *, authentic: bool = False
) -> Received:
    """Put a message into quarantine, as above: one that could not be opened, or not be survived."""
    item = Quarantined(problem, message, authentic)
    return Received(0, 0, (item,), _quarantine(session, [item]))


def append_own(session: ScopedSession, events: Sequence[AuditEvent]) -> None:
    """Append events of changes without a request, under the signature of this process. The caller's
    commit records both or neither.

    Raises `SettingsError` where this process has no key to sign with.
    """
    if events:
        with session.as_ledger():
            _append_numbered(session, events)


def _append_numbered(session: Session, events: Sequence[AuditEvent]) -> None:
    """Give events the next numbers of OWN_JOURNAL, and append them.

    One transaction at a time numbers its events. So no number becomes visible before the numbers
    below it.
    """
    ensure_partitions(session, {event.occurred_at.date() for event in events})
    take_turn(session, "append")
    numbers = select(func.coalesce(func.max(AuditEventRow.origin_seq), 0))
    last = session.scalars(numbers.where(AuditEventRow.origin_journal == OWN_JOURNAL)).one()
    numbered = [
        replace(event, origin=EventOrigin(OWN_JOURNAL, number))
        for number, event in enumerate(events, last + 1)
    ]
    _append(session, [_sign(event) for event in numbered])


def _sign(event: AuditEvent) -> SignedEvent:
    data = dump_event(event)
    return SignedEvent(event, data, sign_event(current_settings().signing_key, data))


def count_received(received: Received) -> None:
    COMMITTED.inc(received.appended)
    DUPLICATES.inc(received.duplicates)
    QUARANTINED.inc(len(received.quarantined))
    DISCARDED.inc(received.discarded)
    if received.left:
        log.warning("audit_events_without_their_set", events=received.left)
    for item in received.quarantined:
        log.error("audit_event_quarantined", problem=item.problem)
    CONTRADICTIONS.inc(len(received.contradictions))
    for event_id in received.contradictions:
        log.critical("audit_event_contradicted", event_id=str(event_id))
    if received.discarded:
        log.critical("audit_quarantine_full", discarded=received.discarded)


def find_committed(session: Session, keys: Sequence[str]) -> set[str]:
    """Return those of the events' keys that the ledger has, or that are kept as contradictions."""
    return _keys_in(session.scalars(_COMMITTED, _ids_of(keys)).one(), keys)


def confirm(session: Session, keys: Sequence[str]) -> Confirmation:
    """Ask the same of a primary, and the ledger's history; a replica raises an error."""
    found, history = session.execute(_CONFIRMED, _ids_of(keys)).one()
    return Confirmation(_keys_in(found, keys), history)


def _ids_of(keys: Sequence[str]) -> dict[str, str]:
    # One text each way: a parameter and a value for each id would take longer than the query.
    ids = ",".join([key.partition(":")[0] for key in keys])
    return {"ids": f"{{{ids}}}"}


def _keys_in(found: str | None, keys: Sequence[str]) -> set[str]:
    return set(found.split(",")).intersection(keys) if found else set()


def ensure_partitions(session: Session, days: Iterable[date]) -> None:
    """Make the partitions that these days (UTC) need, unless they exist."""
    for first in sorted({day.replace(day=1) for day in days}):
        session.execute(select(func.ensure_audit_partition(first)))


def has_partition(session: Session, day: date) -> bool:
    name = f"public.audit_events_{day:%Y%m}"
    return session.scalars(select(func.to_regclass(name).is_not(None))).one()


def count_quarantined(session: Session, since: timedelta) -> tuple[int, int]:
    """Count the deliveries in quarantine, and those of them that came within `since`."""
    recent = QuarantineRow.received_at > func.clock_timestamp() - since
    counts = select(func.count(QuarantineRow.digest), func.count().filter(recent))
    total, new = session.execute(counts).one()
    return total, new


def count_contradictions(session: Session) -> int:
    return session.scalars(select(func.count(ContradictionRow.event_id))).one()


def months_ahead(today: date) -> list[date]:
    """Return the first days of this month and of the AHEAD months that follow."""
    months = (today.year * 12 + today.month - 1 + ahead for ahead in range(AHEAD + 1))
    return [date(month // 12, month % 12 + 1, 1) for month in months]


@dataclass(frozen=True)
class _Opened:
    """The items of a delivery."""

    signed: list[SignedEvent]
    """Sorted by id: two deliveries of the same events, each in its own order, could deadlock."""
    sets: dict[str, tuple[UUID, ...]]
    """Sets of excluded tenants, by digest."""
    refused: list[Quarantined]
    """The items that are neither."""


def _open_all(session: Session, delivery: object) -> _Opened:
    items = delivery if isinstance(delivery, list) else [delivery]
    opened = _Opened([], {}, [])
    pairs: list[tuple[object, Signed]] = []
    for item in items:
        match item:
            case [str() as text, str() as signature]:
                # A lone surrogate is replaced: nobody has signed it.
                pairs.append((item, (text.encode(errors="replace"), signature)))
            case [str() as members]:
                _open_set(item, members, opened)
            case _:
                problem = "not an event and its signature"
                opened.refused.append(Quarantined(problem, _bytes(item)))
    _open_events(session, pairs, opened)
    opened.signed.sort(key=attrgetter("event.id"))
    return opened


def _open_set(item: object, members: str, opened: _Opened) -> None:
    try:
        digest, ids = load_members(members)
    except EventError as error:
        opened.refused.append(Quarantined(str(error), _bytes(item)))
    else:
        opened.sets[digest] = ids


def _open_events(session: Session, pairs: Sequence[tuple[object, Signed]], opened: _Opened) -> None:
    """Open events, by the keys as the transaction that appends finds them.

    So a key that is retired counts no more at once. Nothing of an event is parsed before its
    signature holds.
    """
    signed = [each for _, each in pairs]
    named = {name for _, signature in signed if (name := named_key(signature)) is not None}
    keys = read_keys(session, named)
    for (item, (data, signature)), key in zip(pairs, check_signatures(signed, keys), strict=True):
        try:
            if isinstance(key, EventError):
                raise key
            opened.signed.append(SignedEvent(load_journaled(data, key), data, signature))
        except EventError as error:
            opened.refused.append(Quarantined(str(error), _bytes(item)))


def _keep_sets(session: Session, opened: _Opened) -> set[str | None]:
    """Keep the sets that the delivery's events name; returns those that the ledger has then.

    Nobody signs a set. The digest does, in an event that has one: other sets are ignored.
    """
    named = {digest for each in opened.signed if (digest := _digest_of(each.event)) is not None}
    if not named:
        return {None}
    for digest in sorted(named & opened.sets.keys()):
        row = {"digest": digest, "tenant_ids": list(opened.sets[digest])}
        session.execute(insert(ExcludedSetRow).values(row).on_conflict_do_nothing())
    kept = select(ExcludedSetRow.digest).where(ExcludedSetRow.digest.in_(named))
    return {None, *session.scalars(kept)}


def _digest_of(event: AuditEvent) -> str | None:
    """The digest of the set of tenants that the event's access left out."""
    return event.decision.excluded.digest if event.decision.excluded else None


def _append(session: Session, signed: Sequence[SignedEvent]) -> int:
    """Append the events that the ledger does not have yet, and return how many those were.

    The database takes the columns from the events: nobody can append a row that says otherwise.
    """
    if not signed:
        return 0
    document = b",".join([each.data for each in signed]).decode()
    signatures = ",".join([each.signature for each in signed])
    return session.scalars(_APPEND, {"events": f"[{document}]", "signatures": signatures}).one()


_APPEND: Select[int] = select(
    func.append_events(
        cast(bindparam("events", type_=Text), JSON),
        func.string_to_array(bindparam("signatures", type_=Text), ","),
        type_=BigInteger,
    )
)


def _append_each(
    session: Session, signed: Sequence[SignedEvent]
) -> tuple[int, dict[UUID, Quarantined]]:
    """Append events one by one, after the database has refused one of them."""
    appended, refused = 0, {}
    for each in signed:
        try:
            with session.begin_nested():
                appended += _append(session, [each])
        except DBAPIError as error:
            _raise_unless_unfit(error)
            if _code(error) == _TAKEN:
                continue  # a contradiction
            problem = f"the ledger refused it: {type(error).__name__}"
            refused[each.event.id] = Quarantined(problem, each.data, authentic=True)
    return appended, refused


def _keep_contradictions(session: Session, signed: Sequence[SignedEvent]) -> tuple[UUID, ...]:
    """Keep those of the events that the ledger has not, since it has others in their place.

    Once committed here, an event is no longer sent by its journal.
    """
    by_key = {event_key(each.event.id, each.data): each for each in signed}
    missing = by_key.keys() - find_committed(session, list(by_key))
    for key in sorted(missing):
        each = by_key[key]
        values = {
            "event_id": each.event.id,
            "digest": sha256(each.data).digest(),
            "text": each.data.decode(),
            "origin_signature": each.signature,
        }
        session.execute(_KEEP_CONTRADICTION, values)
    return tuple(by_key[key].event.id for key in sorted(missing))


_KEEP_CONTRADICTION = (
    insert(ContradictionRow)
    .values(event=cast(bindparam("text", type_=Text), JSON))
    .on_conflict_do_nothing()
)


def _raise_unless_unfit(error: DBAPIError) -> None:
    """Raise the error unless the event is at fault: the next attempt may not meet another error."""
    known = isinstance(error, (DataError, IntegrityError))
    if not known and not _code(error).startswith(_LIMIT_EXCEEDED):
        raise error


def _code(error: DBAPIError) -> str:
    """Return the error's SQLSTATE, or an empty text."""
    return getattr(error.orig, "pgcode", None) or ""


def _quarantine(session: Session, refused: Sequence[Quarantined]) -> int:
    """Keep what was refused while there is room, and return how many items had none."""
    return sum(
        _quarantine_some(session, [item for item in refused if item.authentic is authentic])
        for authentic in (True, False)
    )


def _quarantine_some(session: Session, items: Sequence[Quarantined]) -> int:
    """Keep items that share their room, and return how many of them had none."""
    if not items:
        return 0
    take_turn(session, "quarantine")  # so that all see what is there
    kept = func.sum(func.least(QuarantineRow.size, QUARANTINED_BYTES))
    sums = select(func.count(QuarantineRow.digest), func.coalesce(kept, 0))
    rows, size = session.execute(sums.where(QuarantineRow.authentic.is_(items[0].authentic))).one()
    fitting = []
    for item in items:
        delivery = item.delivery[:QUARANTINED_BYTES]
        if rows < QUARANTINE_ROWS and size + len(delivery) <= QUARANTINE_BYTES:
            rows, size = rows + 1, size + len(delivery)
            fitting.append((item, delivery))
    if fitting:
        values = [
            {
                "digest": sha256(item.delivery).digest(),
                "problem": item.problem,
                "authentic": item.authentic,
                "size": len(item.delivery),
                "delivery": delivery,
            }
            for item, delivery in fitting
        ]
        session.execute(insert(QuarantineRow).values(values).on_conflict_do_nothing())
    return len(items) - len(fitting)


def _bytes(item: object) -> bytes:
    try:
        return orjson.dumps(item)
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        return repr(item).encode(errors="backslashreplace")
