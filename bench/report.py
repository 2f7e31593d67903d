"""The report of a run: tables for the terminal, a page in Markdown, and JSON for programs."""

import json
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from bench.drawing import draw
from bench.result import Curve, Ratio, Results

CHART_WIDTH = 100
FILE_WIDTH = 160
"""The width of the tables where they are not printed to a terminal."""
PAGE_WIDTH = 400
"""Wide enough that no row of a table in Markdown is broken into lines."""


def print_report(results: Results, setting: str) -> None:
    terminal = Console().is_terminal
    console = Console(width=None if terminal else FILE_WIDTH)
    console.print("Sightline, measured side by side", style="bold")
    console.print(setting, highlight=False)
    console.print(ratio_table(results.ratios))
    if results.figures:
        console.print(figure_table(results))
    for curve in results.curves:
        console.print(chart(curve), width=CHART_WIDTH)
    for wrong in results.wrong:
        console.print(f"[red]wrong:[/red] {wrong}", highlight=False)


def write(results: Results, setting: str, directory: Path) -> Path:
    """Write the figures as JSON and, beside it, the page and the drawing of the curves.

    Returns the path of the JSON.
    """
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    path = directory / f"{now:%Y%m%dT%H%M%SZ}.json"
    commit = _commit()
    ratios = [
        asdict(ratio) | {"median": ratio.median, "quartiles": ratio.quartiles}
        for ratio in results.ratios
    ]
    content = {
        "at": now.isoformat(),
        "commit": commit,
        "setting": setting,
        "ratios": ratios,
        "figures": [asdict(figure) for figure in results.figures],
        "curves": [asdict(curve) for curve in results.curves],
        "wrong": results.wrong,
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    path.with_suffix(".md").write_text(page(results, f"{now:%Y-%m-%d}, commit {commit}; {setting}"))
    if results.curves:
        path.with_suffix(".svg").write_text(draw(results.curves))
    return path


def page(results: Results, setting: str) -> str:
    """The report in Markdown: the tables, and the growth curves as text."""
    tables = Console(width=PAGE_WIDTH, color_system=None)
    with tables.capture() as captured:
        tables.print(ratio_table(results.ratios, box.MARKDOWN))
        tables.print(figure_table(results, box.MARKDOWN))
    lines = "\n".join(line.strip() for line in captured.get().splitlines())
    charts = Console(width=CHART_WIDTH, color_system=None)
    with charts.capture() as captured:
        for curve in results.curves:
            charts.print(chart(curve))
    drawn = "\n".join(line.rstrip() for line in captured.get().splitlines())
    return f"{setting}\n{lines}\n\n```text\n{drawn}\n```\n"


def ratio_table(ratios: list[Ratio], form: box.Box = box.HEAVY_HEAD) -> Table:
    table = Table(box=form)
    for column in ("what", "against", "median", "quartiles", "bar", "", "CPU per answer"):
        table.add_column(column)
    for ratio in ratios:
        low, high = ratio.quartiles
        bar = "" if ratio.bar is None else f"≥ {ratio.bar:g}"
        median, spread = f"{ratio.median:.2f}×", f"{low:.2f}–{high:.2f}"
        table.add_row(ratio.what, ratio.against, median, spread, bar, _verdict(ratio), _cpu(ratio))
    return table


def figure_table(results: Results, form: box.Box = box.HEAVY_HEAD) -> Table:
    table = Table("figure", "value", "", box=form)
    for figure in results.figures:
        table.add_row(figure.what, f"{figure.value:,.2f} {figure.unit}", figure.note)
    return table


def chart(curve: Curve) -> Table:
    """A bar for each size of the curve, on one scale."""
    most = max(value for _, value in curve.points)
    table = Table(title=curve.what, title_justify="left", box=None, show_header=False, expand=True)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column(ratio=1)
    for size, value in curve.points:
        bar = Bar(most, 0, value)
        table.add_row(f"{size:,} {curve.around}", f"{value:,.2f} {curve.unit}", bar)
    return table


def _verdict(ratio: Ratio) -> str:
    return {None: "", True: "reached", False: "[yellow]below[/yellow]"}[ratio.reached]


def _cpu(ratio: Ratio) -> str:
    if ratio.cpu_us is None:
        return ""
    ours, theirs = ratio.cpu_us
    return f"{ours:.0f} / {theirs:.0f} µs ({theirs / ours:.2f}×)"


def _commit() -> str | None:
    """The commit that was measured; "-dirty" at its end says that files had changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None
