"""`python -m bench`: measure every part, or those named, print the table and write it as JSON.

A wrong answer makes it fail; how long anything took never does.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from bench import answers, commits, decisions, growth, lists, misses, product, proofs
from bench.load import WrkMissing, find_wrk
from bench.machine import Cores, describe, find_cores
from bench.report import print_report, write
from bench.result import Results
from tests.processes import no_settings_of_the_caller

NOT_MEASURED = 2
PARTS_ALONE = {
    "answers": answers.measure_answers,
    "commits": commits.measure_commits,
    "decisions": decisions.measure_decisions,
    "growth": growth.measure_growth,
    "ledger": growth.measure_large_ledger,
    "proofs": proofs.measure_proofs,
}
"""The parts that run on servers of their own; the others share a web process."""
PARTS = ("lists", "misses", *PARTS_ALONE)
NAMED_ONLY = ("ledger",)
"""The parts that run only where they are named: they need more disk than others may have."""


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@click.option(
    "--seconds",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="Seconds of each list, one at a time: a second of one stands beside a second of another.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Rounds of everything that is no list.",
)
@click.option(
    "--json",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".sightline/bench"),
    show_default=True,
    help="The directory that the figures are written to.",
)
def main(parts: tuple[str, ...], seconds: int, rounds: int, directory: Path) -> None:
    """Measure Sightline beside its peers: all PARTS but `ledger`, or those named.

    In about four minutes, after a change that touches every request:

        python -m bench lists --seconds 15

    On a machine with much other load, this says in half a minute what an answer costs:

        python -m bench answers
    """
    try:
        find_wrk()
    except WrkMissing as error:
        click.echo(error, err=True)
        sys.exit(NOT_MEASURED)
    cores = find_cores()
    cores.take_rest()
    setting = f"{describe()}; {cores}; lists {seconds} × 1 s, all else {rounds} rounds"
    chosen = parts or [part for part in PARTS if part not in NAMED_ONLY]
    results = measure(cores, chosen, seconds, rounds)
    print_report(results, setting)
    click.echo(f"Written to {write(results, setting, directory)}")
    sys.exit(1 if results.wrong else 0)


def measure(cores: Cores, parts: Sequence[str], seconds: int, rounds: int) -> Results:
    results = Results()
    if {"lists", "misses"} & set(parts):
        with _home() as home, product.run(home, cores) as (measured, place):
            if "lists" in parts:
                lists.measure_lists(measured, place, seconds, results)
            if "misses" in parts:
                misses.measure_misses(measured, place, rounds, results)
    for part, measure_part in PARTS_ALONE.items():
        if part in parts:
            with _home() as home:
                measure_part(home, rounds, results)
    return results


@contextmanager
def _home() -> Iterator[Path]:
    """A directory for servers of the benchmark's own, without the caller's settings."""
    with (
        no_settings_of_the_caller(),
        tempfile.TemporaryDirectory(prefix="sightline-bench-") as home,
    ):
        yield Path(home)


if __name__ == "__main__":
    main()
