"""A run: ordinary load, one attack after another, and what each did to everybody else."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from random import Random
from typing import Any
from uuid import uuid4

import requests
from sqlalchemy import select, text

from reliability.faults.comparison import Comparison, compare, read_ledger, read_waits
from reliability.faults.history import FaultPeriod, History, SentRequest
from reliability.faults.installation import Installation
from reliability.faults.load import PATH, Load
from reliability.faults.run import await_drained
from reliability.hostile.attack import Attack, Scene, create_attackers
from reliability.hostile.broker import FORGED
from reliability.stress.people import People
from reliability.verification import verify
from tests.audit.ledgers import owner_connection
from tests.audit.receipts import second_connection
from tests.factories import INCIDENT, Account
from webapp.audit.models import AuditEventRow
from webapp.settings import Settings

QUIET = Attack("nobody attacks", lambda scene: None)
WELL = 180.0
"""Seconds in which the installation must work again by itself after an attack."""

DRAIN = 420.0
PAUSE = 0.4
"""The load of others leaves the cores room."""

TIMEOUT = 60.0
ASKED = 6
"""Accesses after an attack, so that every process of the web and the workers has a part in one."""


@dataclass(frozen=True)
class Extent:
    attacks: Sequence[Attack]
    seconds: float
    """How long an attack goes on."""
    quiet: float
    """Seconds before each attack in which nobody attacks."""
    seed: int
    client_pause: float = PAUSE
    """The most seconds between two requests of a client."""


@dataclass
class AttackResult:
    """What an attack did, and what became of everybody else."""

    attack: Attack
    did: Counter[str] = field(default_factory=Counter)
    breaches: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """Seconds of each request of others, in order of length."""
    locked_out: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """Processes that ended."""
    well_after: float | None = None
    """Seconds until everything worked again; `None`: it did not."""

    def percentile(self, share: float) -> float:
        return self.waits[int(len(self.waits) * share)] if self.waits else 0.0


@dataclass(frozen=True)
class Outcome:
    results: Sequence[AttackResult]
    quiet: AttackResult
    comparison: Comparison
    missing: int
    """Numbers of journals without an event, but for those of files that were changed."""
    doubled: int
    forged: int
    """Events of the ledger that no request has caused and that nobody is told of."""
    waiting: int
    events: int

    @property
    def problems(self) -> list[str]:
        """Everything that must not be."""
        found = [f"{kind}: {n}" for kind, n in self.comparison.total.discrepancies.items() if n]
        for what in ("missing", "doubled", "forged", "waiting"):
            if count := getattr(self, what):
                found.append(f"{what}: {count}")
        for result in self.results:
            about = result.attack.name
            found += [f"{about}: {text}" for text in result.breaches]
            found += [f"{about}: {text} was locked out" for text in result.locked_out]
            found += [f"{about}: {text} ended" for text in result.ended]
            if result.well_after is None:
                found.append(f"{about}: not well after {WELL:.0f} s")
        return found


def run(
    installation: Installation, extent: Extent, report: Callable[[str], object] = lambda line: None
) -> Outcome:
    """Let every attack happen under load, and compare what clients were told with the ledger."""
    name = f"hostile-{uuid4().hex[:12]}"
    load = Load(installation.app, installation.url, name, extent.seed, pause=extent.client_pause)
    history = History()
    quiet, results = AttackResult(QUIET), []
    periods: list[tuple[AttackResult, float, float]] = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as elsewhere:
        scene = Scene(
            installation=installation,
            victims=load.people,
            attackers=create_attackers(installation.app),
            rng=Random(extent.seed),  # noqa: S311 - to be repeatable, not secret
            seconds=extent.seconds,
            elsewhere=elsewhere,
        )
        for attack in extent.attacks:
            attack.prepare(scene)
        load.start()
        try:
            for attack in extent.attacks:
                began = time.monotonic()
                time.sleep(extent.quiet)
                periods.append((quiet, began, time.monotonic()))
                history.add(FaultPeriod(QUIET, began, time.monotonic()))
                report(f"{attack.name}, {load.log.accesses} accesses so far")
                began = time.monotonic()
                result = _attack(scene, attack)
                periods.append((result, began, time.monotonic()))
                _recover(scene, result)
                history.add(FaultPeriod(attack, began, time.monotonic()))
                results.append(result)
                report(_in_short(result))
        finally:
            load.stop()
            installation.restore()
    installation.await_well()
    report("waiting for the journals to drain")
    completeness = await_drained(installation, DRAIN, report)
    sent = load.log.read()
    _note_waits(sent, periods)
    for result in results:
        result.locked_out += _unanswered(sent, result, periods, load.run)
    recorded = read_ledger(installation.app, name)
    settings: Settings = installation.app.extensions["settings"]
    waits = read_waits(installation.web.log)
    comparison = compare(sent, recorded, history, waits, settings.audit_timeout)
    found = verify(installation.environment)
    return Outcome(
        results,
        quiet,
        comparison,
        missing=_count_missing(found, scene),
        doubled=len(found["doubled"]),
        forged=_count_forged(installation, found, scene),
        waiting=len(completeness.waiting) + len(found["unreadable"]),
        events=len(recorded),
    )


def _attack(scene: Scene, attack: Attack) -> AttackResult:
    before = _processes(scene.installation)
    scene.did, scene.breaches = Counter(), []
    try:
        attack.run(scene)
    finally:
        attack.repair(scene)
    result = AttackResult(attack, scene.did, scene.breaches)
    result.ended = sorted(before.keys() - _processes(scene.installation).keys())
    return result


def _processes(installation: Installation) -> dict[str, int]:
    """The processes of the product that run, by their names and numbers."""
    parts = {"web": installation.web, "worker": installation.worker, "beat": installation.beat}
    return {
        f"{name} process {process.pid}": process.pid
        for name, part in parts.items()
        for process in part.tree
    }


def _recover(scene: Scene, result: AttackResult) -> None:
    """Wait until everything works by itself, and see that nobody is locked out."""
    began = time.monotonic()
    installation = scene.installation
    if scene.wait_for(installation.is_well, WELL) and scene.wait_for(
        lambda: _is_recorded(scene), WELL
    ):
        result.well_after = time.monotonic() - began
    result.locked_out += [
        who
        for who, account, scope in _everybody(scene.victims)
        if _ask(scene, account, scope) != 200
    ]


def _is_recorded(scene: Scene) -> bool:
    """Whether an access that is made now is in the ledger soon."""
    receipts = []
    headers = scene.victims.platform["engineer"].headers("global", INCIDENT)
    for _ in range(ASKED):
        with suppress(requests.RequestException):
            url = f"{scene.installation.url}{PATH}"
            answer = requests.get(url, headers=headers, timeout=TIMEOUT)
            receipts.append(answer.headers.get("Sightline-Audit"))
    if None in receipts or len(receipts) < ASKED:
        return False
    return scene.wait_for(lambda: _count(scene.installation, receipts) == ASKED, WELL)


def _count(installation: Installation, ids: Sequence[Any]) -> int:
    with second_connection(installation.app) as session:
        query = select(AuditEventRow.id).where(AuditEventRow.id.in_(ids))
        return len(session.scalars(query).all())


def _everybody(people: People) -> Iterator[tuple[str, Account, str | None]]:
    for slug in people.slugs:
        yield f"the admin of {slug}", people.admins[slug], None
        yield f"the member of {slug}", people.members[slug], None
    for role, account in people.platform.items():
        yield f"the {role}", account, "global"


def _ask(scene: Scene, account: Account, scope: str | None) -> int:
    headers = account.headers(scope, INCIDENT if scope else None)
    try:
        url = f"{scene.installation.url}{PATH}"
        return requests.get(url, headers=headers, timeout=TIMEOUT).status_code
    except requests.RequestException:
        return 0


def _note_waits(
    sent: Sequence[SentRequest], periods: Sequence[tuple[AttackResult, float, float]]
) -> None:
    for result, began, ended in periods:
        result.waits += [r.seconds for r in sent if began <= r.began <= ended]
    for result, _, _ in periods:
        result.waits.sort()


def _unanswered(
    sent: Sequence[SentRequest],
    result: AttackResult,
    periods: Sequence[tuple[AttackResult, float, float]],
    run_name: str,
) -> Iterator[str]:
    """Clients that had no good answer during an attack, where they should have had some."""
    if result.attack.harms:
        return
    [(began, ended)] = [(began, ended) for of, began, ended in periods if of is result]
    asked: set[str] = set()
    answered: set[str] = set()
    for request in sent:
        if began <= request.began and request.ended <= ended:
            client = request.request_id.removeprefix(f"{run_name}.").split(".")[0]
            asked.add(client)
            expected = 403 if request.effect == "denied" else 0
            if request.status is not None and (request.status < 400 or request.status == expected):
                answered.add(client)
    yield from (f"client {client}" for client in sorted(asked - answered))


def _count_missing(found: Any, scene: Scene) -> int:
    """Count the numbers without an event, but those of events that contradict the ledger and those
    of files that were changed: `_count_forged` and the attack see that these are named."""
    changed = {str(journal) for journal in scene.tampered}
    with owner_connection(scene.installation.app) as owner:
        query = text(
            "select event->'origin'->>'journal', event->'origin'->>'seq' from audit_contradictions"
        )
        contradicting = {(journal, int(seq)) for journal, seq in owner.execute(query)}
    missing = {
        (gap["journal"], number)
        for gap in found["missing"]
        if gap["journal"] not in changed
        for number in range(gap["first"], gap["last"] + 1)
    }
    return len(missing - contradicting)


def _count_forged(installation: Installation, found: Any, scene: Scene) -> int:
    """Count forged events in the ledger, and swapped ones that verify does not name."""
    contradicted = {named["event"] for named in found["contradictions"]}
    with second_connection(installation.app) as session:
        query = select(AuditEventRow.id).where(AuditEventRow.request_id.startswith(f"{FORGED}."))
        forged = session.scalars(query).all()
    return len(forged) + len(scene.swapped - contradicted)


def _in_short(result: AttackResult) -> str:
    did = ", ".join(f"{what} {count:,}" for what, count in result.did.items())
    well = "not well" if result.well_after is None else f"well after {result.well_after:.1f} s"
    wrong = "; ".join([*result.breaches, *result.locked_out, *result.ended])
    return f"  {did}; {well}{f'; WRONG: {wrong}' if wrong else ''}"
