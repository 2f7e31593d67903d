"""Print the tables, and write them between the markers in docs/reliability.md."""

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from reliability.faults.comparison import DISCREPANCIES, FaultSummary
from reliability.faults.run import Extent, Outcome
from reliability.faults.system_calls import MODES, CaseResult
from tests.processes import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- begin: make faults -->", "<!-- end: make faults -->"

WIDTH = 170
ACCESSES = (
    *("fault", "times", "accesses", "acknowledged", "refused or unanswered"),
    *("lost", "doubled", "unrecorded", "longest request", "longest held by recording"),
)
CALLS = ("call", *MODES, "events acknowledged", "refused", "promises broken")
LISTS = ("fault", "lists", "5xx or unanswered", "unexplained", "wrong bodies", "longest request")


@dataclass(frozen=True)
class _Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def print_run(outcome: Outcome, extent: Extent) -> None:
    console = _console()
    for table in _run_tables(outcome):
        console.print(_rich(table))
    console.print(_summary(outcome, extent))
    for kind, examples in outcome.comparison.examples.items():
        for example in examples:
            console.print(f"{kind}: {example}")


def print_calls(results: Sequence[CaseResult]) -> None:
    console = _console()
    console.print(_rich(_call_table(results)))
    for result in results:
        for problem in result.problems:
            console.print(f"{result.case}: {problem}")


def write_document(
    outcome: Outcome, results: Sequence[CaseResult], extent: Extent, document: Path = DOCUMENT
) -> None:
    """Replace the tables in the document."""
    before, _, rest = document.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{document} lacks {BEGIN} and {END}")
    lines = [_summary(outcome, extent), ""]
    for table in (*_run_tables(outcome), _call_table(results)):
        lines += [f"**{table.title}**", "", _markdown(table.head)]
        lines += [_markdown(["---", *["---:"] * (len(table.head) - 1)])]
        lines += [*map(_markdown, table.rows), ""]
    document.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"{END}{after}")


def _run_tables(outcome: Outcome) -> tuple[_Table, _Table]:
    rows = [*sorted(outcome.comparison.rows.items()), ("all", outcome.comparison.total)]
    return (
        _Table("Accesses", ACCESSES, [_access_cells(name, row) for name, row in rows]),
        _Table("The plain list of rules", LISTS, [_list_cells(name, row) for name, row in rows]),
    )


def _call_table(results: Sequence[CaseResult]) -> _Table:
    return _Table("The journal's system calls", CALLS, list(_call_rows(results)))


def _console() -> Console:
    return Console(highlight=False, markup=False, width=WIDTH)


def _rich(table: _Table) -> Table:
    shown = Table(title=table.title, title_justify="left")
    for number, name in enumerate(table.head):
        shown.add_column(name, justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*row)
    return shown


def _access_cells(name: str, row: FaultSummary) -> list[str]:
    held = f"{row.held:.2f} s"
    if row.held_stopped > row.held:
        held += f" ({row.held_stopped:.2f} s while it was stopped)"
    counts = (row.times, row.accesses, row.acknowledged, row.refused)
    lost = (row.discrepancies[kind] for kind in ("lost", "doubled", "unrecorded"))
    return [name, *(f"{count:,}" for count in (*counts, *lost)), f"{row.longest:.1f} s", held]


def _list_cells(name: str, row: FaultSummary) -> list[str]:
    found = row.plain_discrepancies
    unexplained = found["errors"] + found["unexpected refusals"]
    counts = (row.plain, row.plain_unanswered, unexplained, found["wrong bodies"])
    return [name, *(f"{count:,}" for count in counts), f"{row.plain_longest:.1f} s"]


def _call_rows(results: Sequence[CaseResult]) -> Iterator[list[str]]:
    reached = [result for result in results if result.reached]
    for call in (*sorted({result.case.call for result in reached}), None):
        these = [result for result in reached if call in (None, result.case.call)]
        counts = [sum(result.case.mode == mode for result in these) for mode in MODES]
        counts += [
            sum(result.acknowledged for result in these),
            sum(result.refused for result in these),
            sum(len(result.problems) for result in these),
        ]
        yield [call or "all", *(f"{count:,}" for count in counts)]


def _summary(outcome: Outcome, extent: Extent) -> str:
    total = outcome.comparison.total
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    found = ", ".join(f"{kind} {total.discrepancies[kind]:,}" for kind in DISCREPANCIES)
    return (
        f"{datetime.now(UTC):%d %B %Y}, seed {extent.seed}, {machine}: {total.times:,} faults,"
        f" {total.accesses:,} accesses of which {total.acknowledged:,} were acknowledged with a"
        f" receipt, {total.plain:,} plain lists; {outcome.events:,} events in the ledger"
        f" {outcome.drained_after:.0f} s after the last fault. {found.capitalize()},"
        f" numbers without an event {outcome.missing:,}, events left in files {outcome.waiting:,},"
        f" quarantined {outcome.quarantined:,}. Refused, but recorded as served:"
        f" {outcome.comparison.overstated:,}."
    )


def _markdown(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
