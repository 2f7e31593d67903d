"""A run: load all the while, one fault after the other at random moments, then the comparison."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from uuid import uuid4

from reliability.faults.comparison import (
    Comparison,
    count_quarantined,
    read_ledger,
    read_waits,
    reckon,
)
from reliability.faults.faults import Fault, Scene, possible
from reliability.faults.installation import Installation, PlantError
from reliability.faults.load import Load
from reliability.faults.requests import History, Struck
from tests.processes import ROOT
from webapp.db.scopes import LedgerScope
from webapp.extensions import db
from webapp.ledger.completeness import Completeness, check_completeness
from webapp.settings import Settings

HURRY = 0.25
"""How often a fault strikes while what the last one did is not yet well again."""

COMMAND = 120


@dataclass(frozen=True)
class Extent:
    accesses: int
    faults: int
    longest: float
    """Seconds that a fault lasts, at most, beside the time that starting again takes."""
    seed: int
    pause: float = 1.0
    """Seconds between two faults, at most."""
    drain: float = 420.0
    """Seconds after the last fault until everything has to be in the ledger. What was sent often,
    and died with its broker as often, is sent again after five minutes at the latest."""


@dataclass(frozen=True)
class Outcome:
    comparison: Comparison
    missing: int
    """Numbers of journals that no event has, by `flask audit verify --complete`."""
    waiting: int
    """Events that were still in files on the host when the time was over."""
    quarantined: int
    events: int
    drained_after: float

    @property
    def clean(self) -> bool:
        wrong = self.missing + self.waiting + self.quarantined
        total = self.comparison.total
        return not wrong and not total.wrongs.total() and total.acknowledged > 0


def run(
    installation: Installation, extent: Extent, say: Callable[[str], object] = lambda line: None
) -> Outcome:
    """Break the installation until both numbers are reached, and mend it; the same seed breaks it
    in the same order and for as long."""
    name = f"faults-{uuid4().hex[:12]}"
    load = Load(installation.app, installation.url, name, extent.seed)
    history = History()
    load.start()
    try:
        _strike_all(installation, extent, load, history, say)
    finally:
        load.stop()
        installation.restore()
    installation.await_well()
    say("waiting for the journals to drain")
    began = time.monotonic()
    completeness = _drained(installation, extent.drain, say)
    drained_after = time.monotonic() - began
    missing, waiting = _verify(installation)
    recorded = read_ledger(installation.app, name)
    settings: Settings = installation.app.extensions["settings"]
    comparison = reckon(
        load.book.read(),
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
    )


def _strike_all(
    installation: Installation,
    extent: Extent,
    load: Load,
    history: History,
    say: Callable[[str], object],
) -> None:
    dice = Random(extent.seed)  # noqa: S311 - to be repeatable, not secret
    scene = Scene(installation, dice)
    pending: list[tuple[Fault, float]] = []
    for fault in _shuffled(possible(installation), dice):
        if len(history) + len(pending) >= extent.faults and load.book.accesses >= extent.accesses:
            break
        lasts, pause = dice.uniform(0.1, extent.longest), dice.uniform(0, extent.pause)
        hurry = dice.random() < HURRY
        pending.append((fault, time.monotonic()))
        number = len(history) + len(pending)
        say(f"{number}: {fault.name} for {lasts:.1f} s, {load.book.accesses} accesses so far")
        try:
            fault.strike(scene)
            time.sleep(lasts)
        finally:
            fault.mend(scene)
        time.sleep(pause)
        if not hurry:
            _calm(installation, history, pending)
    _calm(installation, history, pending)


def _calm(installation: Installation, history: History, pending: list[tuple[Fault, float]]) -> None:
    """Wait until everything is well, and note the faults since it was so before."""
    installation.await_well()
    now = time.monotonic()
    for fault, began in pending:
        history.add(Struck(fault, began, now))
    pending.clear()


def _shuffled(faults: tuple[Fault, ...], dice: Random) -> Iterator[Fault]:
    """Every kind once, in random order, and then again in another one, without end."""
    while True:
        yield from dice.sample(faults, len(faults))


def _drained(
    installation: Installation, within: float, say: Callable[[str], object]
) -> Completeness:
    """The ledger's completeness once nothing waits any more, or the time is over."""
    deadline = time.monotonic() + within
    while True:
        with installation.app.app_context(), db.session.scoped(LedgerScope()):
            directory = installation.app.extensions["settings"].journal_dir
            found = check_completeness(db.session, directory)
        if not found.waiting or time.monotonic() > deadline:
            return found
        say(f"{len(found.waiting)} events wait, {len(found.missing)} gaps")
        time.sleep(2)


def _verify(installation: Installation) -> tuple[int, int]:
    """What the product itself says that is missing, and that still waits."""
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "audit", "verify", "--complete"]
    done = subprocess.run(
        [*command, "--json"],
        cwd=ROOT,
        env=os.environ | dict(installation.environment),
        capture_output=True,
        text=True,
        timeout=COMMAND,
        check=False,
    )
    try:
        found = json.loads(done.stdout)
    except ValueError as error:
        raise PlantError(f"`flask audit verify` says {done.stdout!r} {done.stderr!r}") from error
    missing = sum(gap["last"] - gap["first"] + 1 for gap in found["missing"])
    if done.returncode == 0 and missing:
        raise PlantError(f"`flask audit verify` exits {done.returncode} with {missing} missing")
    return missing, len(found["waiting"]) + len(found.get("unreadable", ()))
