"""Print the tables, and write them between the markers in docs/reliability.md."""

from collections.abc import Sequence

from reliability.faults.report import run_tables, summary
from reliability.faults.run import Extent
from reliability.hosts.faults import Kind
from reliability.hosts.run import SiteOutcome
from reliability.hosts.site import BrokerKind
from reliability.tables import Table, console, printable, write_between

KINDS: dict[Kind, str] = {
    "promotion": "a standby promoted under load",
    "partition": "packets between two sets of hosts dropped",
    "loss": "a part of the packets dropped",
    "delay": "packets delayed",
    "host": "a host died, with its disk or without",
    "upgrade": "all hosts restarted, one after the other",
    "restore": "the database put back to an older backup",
}


def print_run(result: SiteOutcome, extent: Extent, remarks: Sequence[str]) -> None:
    shown = console()
    for table in _tables(result):
        shown.print(printable(table))
    for line in (summary(result.outcome, extent), *remarks):
        shown.print(line)
    for kind, examples in result.outcome.comparison.examples.items():
        for example in examples:
            shown.print(f"{kind}: {example}")


def write_document(
    result: SiteOutcome, extent: Extent, remarks: Sequence[str], broker: BrokerKind
) -> None:
    lines = " ".join((summary(result.outcome, extent), *remarks))
    write_between(f"make hosts, {broker}", lines, _tables(result))


def _tables(result: SiteOutcome) -> tuple[Table, ...]:
    rows = [[KINDS[kind], f"{times:,}"] for kind, times in sorted(result.kinds.items())]
    return (Table("Faults", ("what", "times"), rows), *run_tables(result.outcome))
