"""One table of what was counted, and examples of what was wrong."""

import re
from collections import Counter

import requests
from rich.console import Console
from rich.table import Table

from reliability.stress.counts import FAULTS, Counts

_OUTCOME = re.compile(r'^sightline_cache_requests_total\{.*outcome="(\w+)".*\} (\S+)$', re.M)


def print_report(tally: Counts, cache: str, title: str) -> None:
    console = Console(highlight=False, markup=False)
    statuses = Counter(str(attempt.status or "hung up") for attempt in tally.attempts)
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("count", justify="right")
    table.add_column("of which")
    table.add_row("requests", f"{len(tally.attempts):,}", _listed(statuses))
    table.add_row("waits for answers", "", _waits(tally))
    table.add_row("calls of the cache", "", cache)
    table.add_row("sabotage", f"{tally.sabotage.total():,}", _listed(tally.sabotage))
    table.add_row("accesses made", f"{tally.accesses:,}")
    table.add_row("events committed", f"{tally.events:,}")
    for fault in FAULTS:
        table.add_row(fault, f"{tally.faults[fault]:,}")
    console.print(table)
    for kind, examples in tally.examples.items():
        for example in examples:
            console.print(f"{kind}: {example}")


def cache_outcomes(url: str) -> str:
    """How the web processes' calls of cached functions came out."""
    counts: Counter[str] = Counter()
    for outcome, count in _OUTCOME.findall(requests.get(f"{url}/metrics", timeout=30).text):
        counts[outcome] += int(float(count))
    return _listed(counts)


def _waits(tally: Counts) -> str:
    waits = sorted(attempt.seconds for attempt in tally.attempts if attempt.status is not None)
    half, most = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
    return f"p50 {half * 1000:.0f} ms, p99 {most * 1000:.0f} ms, longest {waits[-1]:.1f} s"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
