"""One table for people, one JSON file for programs."""

import json
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.result import Ratio, Results


def print_table(results: Results, setting: str) -> None:
    console = Console()
    table = Table(title="Sightline, measured side by side", caption=setting, title_justify="left")
    for column in ("what", "against", "median", "spread", "bar", ""):
        table.add_column(column)
    for ratio in results.ratios:
        spread = f"{min(ratio.rounds):.2f}–{max(ratio.rounds):.2f}"
        bar = "" if ratio.bar is None else f"≥ {ratio.bar:g}"
        table.add_row(
            ratio.what, ratio.against, f"{ratio.median:.2f}×", spread, bar, _verdict(ratio)
        )
    for figure in results.figures:
        table.add_row(figure.what, figure.note, f"{figure.value:,.2f} {figure.unit}")
    console.print(table)
    for wrong in results.wrong:
        console.print(f"[red]wrong:[/red] {wrong}", highlight=False)


def _verdict(ratio: Ratio) -> str:
    return {None: "", True: "reached", False: "[yellow]below[/yellow]"}[ratio.reached]


def write_json(results: Results, setting: str, directory: Path) -> Path:
    now = datetime.now(UTC)
    path = directory / f"{now:%Y%m%dT%H%M%SZ}.json"
    ratios = [asdict(ratio) | {"median": ratio.median} for ratio in results.ratios]
    content = {
        "at": now.isoformat(),
        "commit": _commit(),
        "setting": setting,
        "ratios": ratios,
        "figures": [asdict(figure) for figure in results.figures],
        "wrong": results.wrong,
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _commit() -> str | None:
    shown = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip() or None
