"""Print one table of the counts, and examples of what was wrong."""

import re
from collections import Counter

import requests
from rich.console import Console
from rich.table import Table

from reliability.stress.counts import FAULTS, Counts

_OUTCOME = re.compile(r'^sightline_cache_requests_total\{.*outcome="(\w+)".*\} (\S+)$', re.M)


def print_report(counts: Counts, cache: str, title: str) -> None:
    console = Console(highlight=False, markup=False)
    statuses = Counter(str(attempt.status or "hung up") for attempt in counts.attempts)
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("count", justify="right")
    table.add_column("of which")
    table.add_row("requests", f"{len(counts.attempts):,}", _listed(statuses))
    table.add_row("waits for answers", "", _waits(counts))
    table.add_row("calls of the cache", "", cache)
    table.add_row("sabotage", f"{counts.sabotage.total():,}", _listed(counts.sabotage))
    table.add_row("accesses made", f"{counts.accesses:,}")
    table.add_row("events committed", f"{counts.events:,}")
    for fault in FAULTS:
        table.add_row(fault, f"{counts.faults[fault]:,}")
    console.print(table)
    for kind, examples in counts.examples.items():
        for example in examples:
            console.print(f"{kind}: {example}")


def cache_outcomes(url: str) -> str:
    """The outcomes of the web processes' calls of cached functions."""
    counts: Counter[str] = Counter()
    for outcome, count in _OUTCOME.findall(requests.get(f"{url}/metrics", timeout=30).text):
        counts[outcome] += int(float(count))
    return _listed(counts)


def _waits(counts: Counts) -> str:
    waits = sorted(attempt.seconds for attempt in counts.attempts if attempt.status is not None)
    half, most = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
    return f"p50 {half * 1000:.0f} ms, p99 {most * 1000:.0f} ms, longest {waits[-1]:.1f} s"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
