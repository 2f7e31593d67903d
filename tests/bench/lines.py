"""The lines of the table: each measures one thing and checks what it measured."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from threading import Barrier

import requests

from tests.bench.load import Run, Target, run
from tests.bench.machine import Cores
from tests.bench.product import RULES, Product
from tests.bench.result import Figure, Ratio, Results, ratios

COLD = 64
MISSES = 100


def measure_side_by_side(
    targets: Sequence[Target], cores: Cores, rounds: int, seconds: float, results: Results
) -> dict[str, list[Run]]:
    """Alternate: every round runs each target once, beginning with another one each time."""
    runs: dict[str, list[Run]] = {target.name: [] for target in targets}
    for target in targets:
        checked = run(target, cores, seconds, check=True)
        results.expect(checked.requests > 0, f"{target.name}: no answer at all")
        results.expect(checked.wrong == 0, f"{target.name}: {checked.wrong} wrong answers")
    for number in range(rounds):
        shift = number % len(targets)
        for target in (*targets[shift:], *targets[:shift]):
            timed = run(target, cores, seconds)
            results.expect(timed.wrong == 0, f"{target.name}: {timed.wrong} failed under load")
            runs[target.name].append(timed)
    return runs


def compare(
    results: Results,
    runs: dict[str, list[Run]],
    what: str,
    against: str,
    *,
    bar: float | None = None,
) -> None:
    ours, theirs = ([timed.rate for timed in runs[name]] for name in (what, against))
    results.ratios.append(Ratio(what, against, ratios(ours, theirs), bar))


def report_runs(results: Results, runs: dict[str, list[Run]]) -> None:
    for name, timed in runs.items():
        note = (
            f"p50 {median(run.p50_ms for run in timed):.2f} ms,"
            f" p99 {median(run.p99_ms for run in timed):.2f} ms"
        )
        results.figures.append(Figure(name, median(run.rate for run in timed), "/s", note))


def measure_miss(product: Product, results: Results) -> None:
    """One client, one request at a time: a change, the miss that follows, and a hit."""
    misses, hits = [], []
    with product.session("acme-admin") as session:
        for number in range(MISSES):
            before = product.loads()
            product.change_a_rule(session, number)
            seconds, first = _timed(lambda: session.get(product.rules_url))
            misses.append(seconds)
            seconds, second = _timed(lambda: session.get(product.rules_url))
            hits.append(seconds)
            results.expect(product.loads() == before + 1, "a miss did not load the list just once")
            results.expect(first.content == second.content, "a hit and its miss differ")
            shown = f"changed {number}" in first.text
            results.expect(shown, "a list from before a change was answered after it")
    added = median(misses) - median(hits)
    note = f"miss {median(misses) * 1e3:.2f} ms, hit {median(hits) * 1e3:.2f} ms"
    results.figures.append(Figure("a miss adds, p50", added * 1e3, "ms", note))


def _timed(call: Callable[[], requests.Response]) -> tuple[float, requests.Response]:
    began = time.perf_counter()
    response = call()
    return time.perf_counter() - began, response


def measure_cold(product: Product, results: Results) -> None:
    """Many at once on a key that a change has just made cold."""
    barrier = Barrier(COLD)

    def ask(_: int) -> requests.Response:
        with product.session("acme-admin") as session:
            session.get(product.url + "/healthz")  # connect first, so that all are there at once
            barrier.wait()
            return session.get(product.rules_url)

    with product.session("acme-admin") as session:
        product.change_a_rule(session, MISSES)
    before = product.loads()
    with ThreadPoolExecutor(COLD) as pool:
        answers = list(pool.map(ask, range(COLD)))
    loads = product.loads() - before
    results.expect({answer.status_code for answer in answers} == {200}, "a cold request failed")
    results.expect(len({answer.content for answer in answers}) == 1, "cold answers differ")
    results.expect(loads == 1, f"{loads:g} loads for {COLD} concurrent cold requests")
    results.figures.append(Figure(f"{COLD} at once on a cold key", loads, "loads", "at most 1"))


def check_list(body: bytes, name: str, results: Results) -> None:
    items = json.loads(body)["items"]
    results.expect(len(items) == RULES, f"{name}: {len(items)} rules where {RULES} were meant")
