"""Print the tables, and write them between the markers in docs/reliability.md."""

import os
import subprocess

from reliability.faults.comparison import DISCREPANCIES, Discrepancy
from reliability.hostile.run import AttackResult, Extent, Outcome
from reliability.tables import Table, console, printable, today_here, write_between
from tests.processes import ROOT

OTHERS = (
    *("attack", "requests of others", "p50", "p99", "p99 ÷ quiet", "refused"),
    *("unexplained", "lost", "doubled", "contradictory", "locked out", "well after"),
)
DEEDS = ("attack", "what it did, and how it was answered", "breaches")
REFUSALS: tuple[Discrepancy, ...] = ("errors", "wrong bodies", "unexpected refusals")


def print_run(outcome: Outcome, extent: Extent) -> None:
    shown = console()
    for table in _tables(outcome):
        shown.print(printable(table))
    shown.print(_summary(outcome, extent))
    for problem in outcome.problems:
        shown.print(f"WRONG: {problem}")
    for kind, examples in outcome.comparison.examples.items():
        for example in examples:
            shown.print(f"{kind}: {example}")


def write_document(outcome: Outcome, extent: Extent) -> None:
    write_between("make hostile", _summary(outcome, extent), _tables(outcome))


def _tables(outcome: Outcome) -> tuple[Table, Table]:
    results = (outcome.quiet, *outcome.results)
    return (
        Table("Everybody else", OTHERS, [_cells(result, outcome) for result in results]),
        Table("The attacks", DEEDS, [_deeds(result) for result in outcome.results], texts=2),
    )


def _cells(result: AttackResult, outcome: Outcome) -> list[str]:
    row = outcome.comparison.rows[result.attack.name]
    unexplained = sum(row.discrepancies[kind] for kind in REFUSALS)
    lost = row.discrepancies["lost"] + row.discrepancies["unrecorded"]
    wrong = (row.discrepancies["doubled"], row.discrepancies["contradictory"])
    quiet = outcome.quiet.percentile(0.99)
    counts = (unexplained, lost, *wrong, len(result.locked_out))
    well = "" if result is outcome.quiet else "never"
    if result.well_after is not None:
        well = f"{result.well_after:.1f} s"
    return [
        result.attack.name,
        f"{len(result.waits):,}",
        _milliseconds(result.percentile(0.5)),
        _milliseconds(result.percentile(0.99)),
        f"{result.percentile(0.99) / quiet:.1f}" if quiet else "",
        f"{row.refused + row.plain_unanswered:,}",
        *(f"{count:,}" for count in counts),
        well,
    ]


def _deeds(result: AttackResult) -> list[str]:
    did = (f"{what} {n:,}" for what, n in result.did.items() if what != "breaches")
    return [result.attack.name, ", ".join(did), f"{result.did['breaches']:,}"]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def _summary(outcome: Outcome, extent: Extent) -> str:
    total = outcome.comparison.total
    found = ", ".join(f"{kind} {total.discrepancies[kind]:,}" for kind in DISCREPANCIES)
    locked_out = sum(len(result.locked_out) for result in outcome.results)
    ended = sum(len(result.ended) for result in outcome.results)
    breaches = sum(result.did["breaches"] for result in outcome.results)
    load = os.getloadavg()[2]
    return (
        f"{today_here()}, commit {_commit()}, seed {extent.seed}, load of the machine {load:.1f}:"
        f" {len(outcome.results)} attacks of {extent.seconds:g} s,"
        f" {total.accesses:,} accesses of others and {total.plain:,} plain lists;"
        f" {outcome.events:,} events in the ledger. {found.capitalize()},"
        f" forged and unnoticed {outcome.forged:,}, numbers without an event {outcome.missing:,},"
        f" numbers or ids with several {outcome.doubled:,}, events left in files"
        f" {outcome.waiting:,}, locked out {locked_out:,}, processes ended {ended:,},"
        f" breaches {breaches:,}."
    )


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
