"""What the sealed log has to be after anything that happened: one tree, without a gap.

It is computed anew from the entries, and from the events in the ledger.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from flask import Flask
from sqlalchemy import Text, cast, func, select

from webapp.audit.models import AuditEventRow
from webapp.db.scopes import LogScope, SealingScope
from webapp.extensions import db
from webapp.ledger.sealing.following import find_problem, this_host
from webapp.ledger.sealing.leaf import HeartbeatLeaf, commitment_of, parse_leaf
from webapp.ledger.sealing.merkle import Frontier, hash_leaf
from webapp.ledger.sealing.models import LogEntryRow, LogRow
from webapp.ledger.sealing.numbering import label_of
from webapp.ledger.sealing.state import read_state
from webapp.settings import current_settings

POLL = 1.0


@dataclass(frozen=True)
class SealedLog:
    """The log after a run."""

    size: int
    unsealed: int
    """Events in the ledger that are not in the log."""
    problems: tuple[str, ...] = ()
    """Why it is not one tree without a gap, over the ledger's events."""


def await_sealed(app: Flask, within: float) -> None:
    """Wait until nothing waits to be sealed, or the time is up."""
    deadline = time.monotonic() + within
    with app.app_context(), db.scoped(LogScope()):
        while read_state(db.session).waiting and time.monotonic() < deadline:
            db.session.rollback()
            time.sleep(POLL)


def check_log(app: Flask) -> SealedLog:
    """Check the log, and that this host's copy continues into it."""
    with app.app_context(), db.scoped(SealingScope()):
        logs = db.session.scalars(select(LogRow)).all()
        if len(logs) != 1:
            return SealedLog(0, _count_unsealed(), (f"{len(logs)} logs",))
        (log,) = logs
        frontier, counted = Frontier(), Counter[str]()
        problems = list(_check_entries(log, frontier, counted))
        if (frontier.size, frontier.root()) != (log.size, log.root):
            problems.append("the entries make another tree than was signed")
        copied = find_problem(db.session, this_host(current_settings()))
        found = SealedLog(log.size, _count_unsealed(), tuple(problems))
        return replace(found, problems=(*problems, copied)) if copied else found


def _check_entries(log: LogRow, frontier: Frontier, counted: Counter[str]) -> Iterator[str]:
    for index, event_id, data, text in _entries(log.number):
        if index != frontier.size:
            yield f"entry {index} in the place of {frontier.size}"
        frontier.append(hash_leaf(data))
        leaf = parse_leaf(data)
        if isinstance(leaf, HeartbeatLeaf):
            label, number = "heartbeat", leaf.number
        elif text is None:
            yield f"entry {index} of event {event_id}, which the ledger has not"
            continue
        else:
            event = orjson.loads(text)
            (label, number), *_ = leaf.series
            if leaf.commitment != commitment_of(event) or label != label_of(
                event, log.series_secret
            ):
                yield f"entry {index} is of another event than {event_id}"
        counted[label] += 1
        if number != counted[label]:
            yield f"entry {index} has number {number} in the place of {counted[label]}"


def _entries(log: int) -> Iterator[Sequence[Any]]:
    columns = (LogEntryRow.index, LogEntryRow.event_id, LogEntryRow.leaf)
    event = (AuditEventRow.id == LogEntryRow.event_id) & (
        AuditEventRow.occurred_at == LogEntryRow.occurred_at
    )
    found = select(*columns, cast(AuditEventRow.event, Text)).join(
        AuditEventRow, event, isouter=True
    )
    ordered = found.where(LogEntryRow.log == log).order_by(LogEntryRow.index)
    yield from db.session.execute(ordered.execution_options(yield_per=1_000))


def _count_unsealed() -> int:
    sealed = select(LogEntryRow.event_id).where(LogEntryRow.event_id == AuditEventRow.id)
    return db.session.scalars(
        select(func.count()).select_from(AuditEventRow).where(~sealed.exists())
    ).one()
