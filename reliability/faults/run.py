"""A run: constant load, one fault after another at random moments, and then the comparison."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from uuid import uuid4

from reliability.faults.comparison import (
    Comparison,
    compare,
    count_quarantined,
    read_ledger,
    read_waits,
)
from reliability.faults.faults import Fault, FaultContext, available_faults
from reliability.faults.history import FaultPeriod, History
from reliability.faults.installation import Installation
from reliability.faults.load import PAUSE, Load
from reliability.sealed_log import SealedLog, await_sealed, check_log
from reliability.verification import count_missing, verify
from webapp.db.scopes import LedgerScope
from webapp.extensions import db
from webapp.ledger.completeness import Completeness, check_completeness
from webapp.settings import Settings

SEALED = 60.0
"""Seconds after which everything must be sealed once it is in the ledger."""

EARLY = 0.25
"""The share of faults that are injected before the last one is repaired."""


@dataclass(frozen=True)
class Extent:
    accesses: int
    faults: int
    longest: float
    """The most seconds that a fault lasts, without the time that starting again takes."""
    seed: int
    pause: float = 1.0
    """The most seconds between two faults."""
    drain: float = 420.0
    """Seconds after the last fault until everything must be in the ledger. What was sent often, and
    was lost with its broker each time, is sent again after five minutes at the latest."""
    client_pause: float = PAUSE
    """The most seconds between two requests of a client."""


@dataclass(frozen=True)
class Outcome:
    comparison: Comparison
    missing: int
    """Numbers of journals without an event, by `flask audit verify --complete`."""
    waiting: int
    """Events that were still in files on the host when the time was up."""
    quarantined: int
    events: int
    drained_after: float
    sealed: SealedLog | None = None
    """`None` where the log was not checked."""

    @property
    def clean(self) -> bool:
        wrong = self.missing + self.waiting + self.quarantined
        if self.sealed is not None:
            wrong += self.sealed.unsealed + len(self.sealed.problems)
        total = self.comparison.total
        return not wrong and not total.discrepancies.total() and total.acknowledged > 0


def run(
    installation: Installation, extent: Extent, report: Callable[[str], object] = lambda line: None
) -> Outcome:
    """Inject faults until both numbers are reached, then repair everything and compare.

    The same seed injects the same faults in the same order, and for as long.
    """
    name = f"faults-{uuid4().hex[:12]}"
    load = Load(installation.app, installation.url, name, extent.seed, pause=extent.client_pause)
    history = History()
    load.start()
    try:
        _inject_all(installation, extent, load, history, report)
    finally:
        load.stop()
        installation.restore()
    installation.await_well()
    report("waiting for the journals to drain")
    began = time.monotonic()
    completeness = await_drained(installation, extent.drain, report)
    drained_after = time.monotonic() - began
    await_sealed(installation.app, SEALED)
    missing, waiting = count_missing(verify(installation.environment))
    recorded = read_ledger(installation.app, name)
    settings: Settings = installation.app.extensions["settings"]
    comparison = compare(
        load.log.read(),
        recorded,
        history,
        read_waits(installation.web.log),
        settings.audit_timeout,
    )
    return Outcome(
        comparison,
        missing=missing,
        waiting=max(waiting, len(completeness.waiting)),
        quarantined=count_quarantined(installation.app),
        events=len(recorded),
        drained_after=drained_after,
        sealed=check_log(installation.app),
    )


def _inject_all(
    installation: Installation,
    extent: Extent,
    load: Load,
    history: History,
    report: Callable[[str], object],
) -> None:
    rng = Random(extent.seed)  # noqa: S311 - to be repeatable, not secret
    context = FaultContext(installation, rng)
    pending: list[tuple[Fault, float]] = []
    for fault in _shuffled(available_faults(installation), rng):
        if len(history) + len(pending) >= extent.faults and load.log.accesses >= extent.accesses:
            break
        lasts, pause = rng.uniform(0.1, extent.longest), rng.uniform(0, extent.pause)
        early = rng.random() < EARLY
        pending.append((fault, time.monotonic()))
        number = len(history) + len(pending)
        report(f"{number}: {fault.name} for {lasts:.1f} s, {load.log.accesses} accesses so far")
        try:
            fault.inject(context)
            time.sleep(lasts)
        finally:
            fault.repair(context)
        time.sleep(pause)
        if not early:
            _await_repair(installation, history, pending)
    _await_repair(installation, history, pending)


def _await_repair(
    installation: Installation, history: History, pending: list[tuple[Fault, float]]
) -> None:
    """Wait until everything works, and add the faults since then to the history."""
    installation.await_well()
    now = time.monotonic()
    for fault, began in pending:
        history.add(FaultPeriod(fault, began, now))
    pending.clear()


def _shuffled(faults: tuple[Fault, ...], rng: Random) -> Iterator[Fault]:
    """Every kind of fault once in random order, then again in another order, without end."""
    while True:
        yield from rng.sample(faults, len(faults))


def await_drained(
    installation: Installation, within: float, report: Callable[[str], object]
) -> Completeness:
    """Return the ledger's completeness, once no event waits any more or the time is up."""
    deadline = time.monotonic() + within
    while True:
        with installation.app.app_context(), db.scoped(LedgerScope()):
            settings = installation.app.extensions["settings"]
            found = check_completeness(db.session, settings.journal_dir)
        if not found.waiting or time.monotonic() > deadline:
            return found
        report(f"{len(found.waiting)} events wait, {len(found.missing)} gaps")
        time.sleep(2)
