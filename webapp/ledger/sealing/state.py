"""How the log stands, for `flask doctor` and `/metrics`: what waits, and what contradicts it."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from flask import Flask
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.db.scopes import LogScope
from webapp.extensions import db
from webapp.ledger.sealing.models import LogCopyRow, LogQueueRow, LogRow, LogWitnessRow
from webapp.observability.health import add_collector
from webapp.observability.probes import Probe, run_probes


@dataclass(frozen=True)
class LogState:
    """The open log, and what waits for it."""

    origin: str
    """Empty where no log is open yet."""
    size: int
    signed: float | None
    """Seconds since the last checkpoint; `None` before the first one."""
    waiting: int
    """Events that are committed and not sealed."""
    unfit: int
    """Events that cannot be sealed."""
    contradicting: int
    """Hosts that have found that the database is not what was signed."""
    witnesses: dict[str, float]
    """Seconds since each witness has last cosigned; -1 where it never has."""


def read_state(session: Session) -> LogState:
    age = func.extract("epoch", func.clock_timestamp() - LogRow.signed_at)
    found = select(LogRow.origin, LogRow.size, age).where(LogRow.state == "open")
    row = session.execute(found).one_or_none()
    origin, size, signed = row or ("", 0, None)
    fit = LogQueueRow.problem.is_(None)
    counts = select(func.count().filter(fit), func.count().filter(~fit))
    waiting, unfit = session.execute(counts.select_from(LogQueueRow)).one()
    contradicting = select(func.count(LogCopyRow.host)).where(LogCopyRow.problem.is_not(None))
    return LogState(
        origin,
        size,
        None if signed is None else max(0.0, float(signed)),
        waiting,
        unfit,
        session.scalars(contradicting).one(),
        _witnesses(session),
    )


def _witnesses(session: Session) -> dict[str, float]:
    age = func.extract("epoch", func.clock_timestamp() - LogWitnessRow.cosigned_at)
    rows = session.execute(select(LogWitnessRow.name, age).order_by(LogWitnessRow.name))
    return {name: -1.0 if seconds is None else max(0.0, float(seconds)) for name, seconds in rows}


class LogGauges:
    """The state of the log as an application's database has it; nothing once that is silent."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._state: LogState | None = None
        self._probe = Probe("log", self._ask)

    def collect(self) -> Iterable[Metric]:
        (asked,) = run_probes({"log": self._probe}).values()
        if asked.ok and self._state is not None:
            yield from _gauges(self._state)

    def _ask(self) -> None:
        with self._app.app_context(), db.scoped(LogScope()):
            self._state = read_state(db.session)


def _gauges(state: LogState) -> Iterable[Metric]:
    for name, said, value in (
        ("size", "Entries of the open log.", state.size),
        ("waiting_events", "Events that are committed and not sealed.", state.waiting),
        ("unfit_events", "Events that cannot be sealed.", state.unfit),
        ("contradictions", "Hosts whose copies the database contradicts.", state.contradicting),
    ):
        yield GaugeMetricFamily(f"sightline_log_{name}", said, value=value)
    never = inf if state.waiting else 0.0
    signed = never if state.signed is None else state.signed
    said = "Seconds since the last checkpoint was signed; infinite where events wait for the first."
    yield GaugeMetricFamily("sightline_log_signed_seconds", said, value=signed)
    said = "Seconds since a witness has last cosigned; -1 where it never has."
    witnesses = GaugeMetricFamily("sightline_log_witness_seconds", said, labels=("witness",))
    for name, seconds in state.witnesses.items():
        witnesses.add_metric([name], seconds)
    yield witnesses


def init_app(app: Flask) -> None:
    """Add the gauges to `/metrics`. Call this after observability's `init_app`."""
    add_collector(app, LogGauges(app))
