"""Tables of a run: printed for whoever waits, and written between markers of a document."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from tests.processes import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
WIDTH = 170


@dataclass(frozen=True)
class Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    """How many columns, from the left, are texts; the others are numbers."""


def console() -> Console:
    return Console(highlight=False, markup=False, width=WIDTH)


def printable(table: Table) -> RichTable:
    shown = RichTable(title=table.title, title_justify="left")
    for number, name in enumerate(table.head):
        shown.add_column(name, justify="left" if number < table.texts else "right")
    for row in table.rows:
        shown.add_row(*row)
    return shown


def write_between(
    command: str, summary: str, tables: Sequence[Table], document: Path = DOCUMENT
) -> None:
    """Replace what stands between a command's markers in the document."""
    begin, end = f"<!-- begin: {command} -->", f"<!-- end: {command} -->"
    before, _, rest = document.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{document} lacks {begin} and {end}")
    lines = [summary, ""]
    for table in tables:
        lines += [f"**{table.title}**", "", _markdown(table.head)]
        numbers = len(table.head) - table.texts
        lines += [_markdown([*["---"] * table.texts, *["---:"] * numbers])]
        lines += [*map(_markdown, table.rows), ""]
    document.write_text(f"{before}{begin}\n" + "\n".join(lines) + f"{end}{after}")


def today_here() -> str:
    """The day, and the machine."""
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    return f"{datetime.now(UTC):%d %B %Y}, {machine}"


def _markdown(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
