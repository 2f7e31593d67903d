"""The report: one table and growth curves for people, one JSON file for programs."""

import json
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from bench.result import Curve, Ratio, Results

CHART_WIDTH = 100
FILE_WIDTH = 160
"""The width of the tables where they are not printed to a terminal."""


def print_table(results: Results, setting: str) -> None:
    terminal = Console().is_terminal
    console = Console(width=None if terminal else FILE_WIDTH)
    console.print(_ratio_table(results, setting))
    console.print(_figure_table(results))
    for wrong in results.wrong:
        console.print(f"[red]wrong:[/red] {wrong}", highlight=False)


def write(results: Results, setting: str, directory: Path) -> Path:
    """Write the JSON file, and the chart of the growth curves beside it if there are any."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    path = directory / f"{now:%Y%m%dT%H%M%SZ}.json"
    ratios = [
        asdict(ratio) | {"median": ratio.median, "quartiles": ratio.quartiles}
        for ratio in results.ratios
    ]
    content = {
        "at": now.isoformat(),
        "commit": _commit(),
        "setting": setting,
        "ratios": ratios,
        "figures": [asdict(figure) for figure in results.figures],
        "curves": [asdict(curve) for curve in results.curves],
        "wrong": results.wrong,
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    if results.curves:
        path.with_suffix(".txt").write_text(draw_curves(results.curves))
    return path


def draw_curves(curves: list[Curve]) -> str:
    """A bar for each size of each curve, all bars of a curve on one scale."""
    console = Console(width=CHART_WIDTH, color_system=None)
    with console.capture() as captured:
        for curve in curves:
            console.print(_chart(curve))
    return captured.get()


def _ratio_table(results: Results, setting: str) -> Table:
    table = Table(title="Sightline, measured side by side", caption=setting, title_justify="left")
    for column in ("what", "against", "median", "quartiles", "bar", "", "CPU per answer"):
        table.add_column(column)
    for ratio in results.ratios:
        low, high = ratio.quartiles
        bar = "" if ratio.bar is None else f"≥ {ratio.bar:g}"
        cpu = "" if ratio.cpu_us is None else "{:.0f} / {:.0f} µs".format(*ratio.cpu_us)
        median, spread = f"{ratio.median:.2f}×", f"{low:.2f}–{high:.2f}"
        table.add_row(ratio.what, ratio.against, median, spread, bar, _verdict(ratio), cpu)
    return table


def _figure_table(results: Results) -> Table:
    table = Table(show_header=False)
    for figure in results.figures:
        table.add_row(figure.what, f"{figure.value:,.2f} {figure.unit}", figure.note)
    return table


def _verdict(ratio: Ratio) -> str:
    return {None: "", True: "reached", False: "[yellow]below[/yellow]"}[ratio.reached]


def _chart(curve: Curve) -> Table:
    most = max(value for _, value in curve.points)
    table = Table(title=curve.what, title_justify="left", box=None, show_header=False, expand=True)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column(ratio=1)
    for size, value in curve.points:
        bar = Bar(most, 0, value)
        table.add_row(f"{size:,} {curve.around}", f"{value:,.2f} {curve.unit}", bar)
    return table


def _commit() -> str | None:
    """The commit that was measured; "-dirty" at its end says that files had changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None
