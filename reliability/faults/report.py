"""Print the tables, and write them between the markers in docs/reliability.md."""

from collections.abc import Iterator, Sequence

from reliability.faults.comparison import DISCREPANCIES, FaultSummary
from reliability.faults.run import Extent, Outcome
from reliability.faults.system_calls import MODES, CaseResult
from reliability.sealed_log import SealedLog
from reliability.tables import Table, console, printable, today_here, write_between

ACCESSES = (
    *("fault", "times", "accesses", "acknowledged", "refused or unanswered"),
    *("lost", "doubled", "unrecorded", "longest request", "longest held by recording"),
)
CALLS = ("call", *MODES, "events acknowledged", "refused", "promises broken")
LISTS = ("fault", "lists", "5xx or unanswered", "unexplained", "wrong bodies", "longest request")


def print_run(outcome: Outcome, extent: Extent) -> None:
    shown = console()
    for table in run_tables(outcome):
        shown.print(printable(table))
    shown.print(summary(outcome, extent))
    for kind, examples in outcome.comparison.examples.items():
        for example in examples:
            shown.print(f"{kind}: {example}")
    for problem in outcome.sealed.problems if outcome.sealed else ():
        shown.print(f"log: {problem}")


def print_calls(results: Sequence[CaseResult]) -> None:
    shown = console()
    shown.print(printable(_call_table(results)))
    for result in results:
        for problem in result.problems:
            shown.print(f"{result.case}: {problem}")


def write_document(outcome: Outcome, results: Sequence[CaseResult], extent: Extent) -> None:
    tables = (*run_tables(outcome), _call_table(results))
    write_between("make faults", summary(outcome, extent), tables)


def run_tables(outcome: Outcome) -> tuple[Table, Table]:
    rows = [*sorted(outcome.comparison.rows.items()), ("all", outcome.comparison.total)]
    return (
        Table("Accesses", ACCESSES, [_access_cells(name, row) for name, row in rows]),
        Table("The plain list of rules", LISTS, [_list_cells(name, row) for name, row in rows]),
    )


def _call_table(results: Sequence[CaseResult]) -> Table:
    return Table("The journal's system calls", CALLS, list(_call_rows(results)))


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


def summary(outcome: Outcome, extent: Extent) -> str:
    total = outcome.comparison.total
    found = ", ".join(f"{kind} {total.discrepancies[kind]:,}" for kind in DISCREPANCIES)
    return (
        f"{today_here()}, seed {extent.seed}: {total.times:,} faults,"
        f" {total.accesses:,} accesses of which {total.acknowledged:,} were acknowledged with a"
        f" receipt, {total.plain:,} plain lists; {outcome.events:,} events in the ledger"
        f" {outcome.drained_after:.0f} s after the last fault. {found.capitalize()},"
        f" numbers without an event {outcome.missing:,}, events left in files {outcome.waiting:,},"
        f" quarantined {outcome.quarantined:,}.{_sealed(outcome.sealed)}"
        f" Refused, but recorded as served: {outcome.comparison.overstated:,}."
    )


def _sealed(log: SealedLog | None) -> str:
    if log is None:
        return ""
    return (
        f" The log has {log.size:,} entries: events without one {log.unsealed:,}, gaps and forks"
        f" {len(log.problems):,}."
    )
