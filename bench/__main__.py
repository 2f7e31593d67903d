"""`python -m tests.bench`: run every line, print the table, write it as JSON.

A wrong answer makes it fail; how long anything took never does.
"""

import sys
import tempfile
from pathlib import Path

import click

from bench import commits, decisions, lines, product
from bench.load import WrkMissing, find_wrk
from bench.machine import Cores, describe, find_cores
from bench.report import print_table, write_json
from bench.result import Results
from tests.processes import no_settings_of_the_caller

NOT_MEASURED = 2


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--seconds",
    type=click.IntRange(1),
    default=6,
    show_default=True,
    help="Of each list in a round, one at a time: each second of one stands beside one of another.",
)
@click.option(
    "--json",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".sightline/bench"),
    show_default=True,
    help="Where the figures are written.",
)
def main(rounds: int, seconds: int, directory: Path) -> None:
    """Measure Sightline beside its peers."""
    try:
        find_wrk()
    except WrkMissing as error:
        click.echo(error, err=True)
        sys.exit(NOT_MEASURED)
    cores = find_cores()
    cores.take_rest()
    setting = f"{describe()}; {cores}; {rounds} rounds, of lists {rounds * seconds} of 1 s"
    results = measure(cores, rounds, seconds)
    print_table(results, setting)
    directory.mkdir(parents=True, exist_ok=True)
    click.echo(f"Written to {write_json(results, setting, directory)}")
    sys.exit(1 if results.wrong else 0)


def measure(cores: Cores, rounds: int, seconds: int) -> Results:
    results = Results()
    with (
        no_settings_of_the_caller(),
        tempfile.TemporaryDirectory(prefix="sightline-bench-") as home,
        product.run(Path(home), cores) as (measured, place),
    ):
        body = lines.measure_lists(measured, place, rounds * seconds, results)
        lines.measure_miss(measured, results)
        lines.measure_cold(measured, results)
        lines.measure_reload(body, place, rounds, results)
    with (
        no_settings_of_the_caller(),
        tempfile.TemporaryDirectory(prefix="sightline-bench-") as home,
    ):
        commits.measure_commits(Path(home), rounds, results)
    with (
        no_settings_of_the_caller(),
        tempfile.TemporaryDirectory(prefix="sightline-bench-") as home,
    ):
        decisions.measure_decisions(Path(home), rounds, results)
    return results


if __name__ == "__main__":
    main()
