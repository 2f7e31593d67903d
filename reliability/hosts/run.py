"""A run: constant load, one fault after another, and then the comparison."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

from reliability.faults.comparison import compare, count_quarantined, read_ledger, read_waits
from reliability.faults.history import FaultPeriod, History
from reliability.faults.load import Load
from reliability.faults.run import Extent, Outcome
from reliability.hosts.faults import Fault, FaultContext, Kind
from reliability.hosts.restore import RestoreOutcome, restore_what_journals_forgot
from reliability.hosts.site import Site
from reliability.verification import count_missing, verify
from webapp.settings import Settings

Report = Callable[[str], object]
POLL = 3.0


@dataclass(frozen=True)
class SiteOutcome:
    outcome: Outcome
    kinds: Counter[Kind]
    restore: RestoreOutcome | None
    """`None` where nothing was restored that journals cannot complete."""

    @property
    def clean(self) -> bool:
        return self.outcome.clean and (self.restore is None or self.restore.is_clean)


def run(
    site: Site,
    faults: tuple[Fault, ...],
    extent: Extent,
    home: Path,
    report: Report,
    *,
    restores: bool,
) -> SiteOutcome:
    """Inject faults until both numbers are reached, then repair everything and compare.

    `restores`: at last, put the database back to a backup that journals cannot complete.
    """
    name = f"hosts-{uuid4().hex[:12]}"
    load = Load(site.app, site.url, name, extent.seed, certificate=site.certificate)
    history = History()
    kinds: Counter[Kind] = Counter()
    site.database.await_standby()
    load.start()
    try:
        _inject_all(site, faults, extent, load, history, kinds, home, report)
    finally:
        load.stop()
    report("waiting for the journals to drain")
    began = time.monotonic()
    found = _await_drained(site, extent.drain, report)
    drained_after = time.monotonic() - began
    recorded = read_ledger(site.app, name)
    settings: Settings = site.app.extensions["settings"]
    waits = {
        request: held for web in site.webs for request, held in read_waits(web.part.log).items()
    }
    comparison = compare(load.log.read(), recorded, history, waits, settings.audit_timeout)
    counted = [count_missing(said) for said in found]
    outcome = Outcome(
        comparison,
        missing=max(missing for missing, _ in counted),
        waiting=sum(waiting for _, waiting in counted),
        quarantined=count_quarantined(site.app),
        events=len(recorded),
        drained_after=drained_after,
    )
    restore = restore_what_journals_forgot(site, home, extent.seed, report) if restores else None
    return SiteOutcome(outcome, kinds, restore)


def _inject_all(
    site: Site,
    faults: tuple[Fault, ...],
    extent: Extent,
    load: Load,
    history: History,
    kinds: Counter[Kind],
    home: Path,
    report: Report,
) -> None:
    rng = Random(extent.seed)  # noqa: S311 - to be repeatable, not secret
    for fault in _shuffled(faults, rng):
        if len(history) >= extent.faults and load.log.accesses >= extent.accesses:
            break
        lasts, pause = rng.uniform(1.0, extent.longest), rng.uniform(0.2, extent.pause)
        report(f"{len(history) + 1}: {fault.name}, {load.log.accesses} accesses so far")
        began = time.monotonic()
        context = FaultContext(site, rng, home)
        try:
            fault.inject(context)
            time.sleep(lasts)
        finally:
            fault.repair(context)
        site.await_well()
        history.add(FaultPeriod(fault, began, time.monotonic()))
        kinds[fault.kind] += 1
        time.sleep(pause)


def _shuffled(faults: tuple[Fault, ...], rng: Random) -> Iterator[Fault]:
    """Every kind of fault once in random order, then again in another order, without end."""
    while True:
        yield from rng.sample(faults, len(faults))


def _await_drained(site: Site, within: float, report: Report) -> list[Any]:
    """Return what `flask audit verify` says on each web host, once no event waits any more on any
    of them or the time is up."""
    deadline = time.monotonic() + within
    while True:
        found = [verify({**site.environment, "JOURNAL_DIR": str(web.journal)}) for web in site.webs]
        waiting = [count_missing(said)[1] for said in found]
        if not any(waiting) or time.monotonic() > deadline:
            return found
        report(f"{waiting} events wait, by host")
        time.sleep(POLL)
