"""The lines of the table: each measures one thing and checks what it measured."""

import subprocess
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median
from threading import Barrier

import requests

from bench.load import Run, Target, run
from bench.peers.environment import ensure_python
from bench.product import RULES, Product
from bench.result import Figure, Ratio, Results, ratios
from bench.servers import PEERS, Place, cpu_seconds, memory_mb, run_bare, run_original
from tests.factories import INCIDENT
from tests.processes import Web
from webapp.caching.codec import Codec
from webapp.rules.rule import RulePage
from webapp.rules.schemas import RulePageSchema

PLAIN = "cached list"
ELEVATED = "cached list, elevated and audited"
NOT_MODIFIED = "cached list, 304"
BARE = "bare Flask, one Redis GET"
ORIGINAL = "FastAPI, fastapi-cache2, pydantic"

CHECKED = 3
"""Seconds in which every answer is accessed."""

REST = 0.8
"""Seconds for the relay to bring away what a run of accesses leaves: else the next pays for it."""

COLD = 64
MISSES = 100
RELOADS = 200
PATIENCE = 60
"""Seconds that the worker may take to commit the accesses to the end of a run."""

CODEC = Codec(RulePageSchema(), many=False)


def measure_lists(product: Product, place: Place, rounds: int, results: Results) -> bytes:
    """The cached list beside its peers, all with the same rules; returns its JSON.

    Short runs, and many: where others load the machine, its speed is not the same for long.
    """
    plain = product.accounts["acme-admin"].headers()
    elevated = product.accounts["engineer"].headers("global", INCIDENT)
    first, url = _get(product.rules_url, plain), product.rules_url
    body, etag = first.content, first.headers["ETag"]
    page = _load(body)
    everybodys = _get(product.rules_url, elevated).content  # the platform's two, and all but two
    for shown in (page, _load(everybodys)):
        count = len(shown.items)
        results.expect(count == RULES, f"{count} rules where {RULES} were meant")
    with run_bare(place, body) as bare, run_original(place, body) as original:
        original_body = _get(f"{original.url}/rules", {}).content
        results.expect(_load(original_body) == page, f"{ORIGINAL}: not the same rules")
        unchanged = plain | {"If-None-Match": etag}
        targets = [
            Target(PLAIN, url, body, plain, requires=("etag",)),
            # Between the two that are measured by it: the machine's speed changes by the second.
            Target(BARE, f"{bare.url}/rules", body),
            Target(
                ELEVATED,
                url,
                everybodys,
                elevated,
                requires=("etag", "sightline-excluded"),
                unique=("sightline-audit",),
            ),
            Target(NOT_MODIFIED, url, b"", unchanged, status=304),
            Target(ORIGINAL, f"{original.url}/rules", original_body),
        ]
        ours = dict.fromkeys((PLAIN, ELEVATED, NOT_MODIFIED), product.web)
        webs = {**ours, BARE: bare, ORIGINAL: original}
        runs = measure_side_by_side(targets, webs, rounds, results)
    compare(results, runs, PLAIN, BARE, bar=0.7)
    compare(results, runs, ELEVATED, BARE, bar=0.6)
    compare(results, runs, ELEVATED, PLAIN)
    compare(results, runs, PLAIN, ORIGINAL, bar=2.5)
    compare(results, runs, NOT_MODIFIED, PLAIN, bar=1.1)
    report_runs(results, runs)
    check_ledger(product, sum(timed.requests for timed in runs[ELEVATED]), results)
    results.figures.append(Figure("the list", len(body) / 1e3, "KB", f"{RULES} rules"))
    results.figures.append(Figure("memory of a web process", memory_mb(product.web), "MB", "PSS"))
    return body


def measure_side_by_side(
    targets: Sequence[Target],
    webs: Mapping[str, Web],
    rounds: int,
    results: Results,
) -> dict[str, list[Run]]:
    """Alternate: every round runs each target once, beginning with another one each time. Those
    whose every answer is recorded are followed by a rest."""
    runs: dict[str, list[Run]] = {target.name: [] for target in targets}
    for target in targets:
        checked = run(target, CHECKED, check=True)
        results.expect(checked.requests > 0, f"{target.name}: no answer at all")
        results.expect(checked.wrong == 0, f"{target.name}: {checked.wrong} wrong answers")
    for number in range(rounds):
        shift = number % len(targets)
        for target in (*targets[shift:], *targets[:shift]):
            before = cpu_seconds(webs[target.name])
            timed = run(target, 1)
            used = cpu_seconds(webs[target.name]) - before
            results.expect(timed.wrong == 0, f"{target.name}: {timed.wrong} failed under load")
            runs[target.name].append(replace(timed, cpu_seconds=used))
            if target.unique:
                time.sleep(REST)
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
            f" p99 {median(run.p99_ms for run in timed):.2f} ms,"
            f" CPU {median(run.cpu_us for run in timed):.0f} µs"
        )
        results.figures.append(Figure(name, median(run.rate for run in timed), "/s", note))


def check_ledger(product: Product, received: int, results: Results) -> None:
    """Each elevated answer has left one event. More were answered than `received`: those that were
    on their way when a run ended, and those that came before the timed ones."""
    began = time.monotonic()
    answers, committed = product.elevated_answers(), product.committed_accesses()
    while committed < answers and time.monotonic() < began + PATIENCE:
        time.sleep(0.2)
        committed = product.committed_accesses()
    results.expect(answers >= received, f"{received} answers came, and {answers} are in the log")
    found = f"{committed} accesses in the ledger for {answers} elevated answers"
    results.expect(committed == answers, found)
    results.figures.append(Figure("accesses in the ledger", committed, "", f"{answers} answers"))


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


def measure_reload(body: bytes, place: Place, rounds: int, results: Results) -> None:
    """The same page through our schema, and through the original stack's models."""
    page = place.logs / "page.json"
    page.write_bytes(body)
    sizes = [str(RULES), str(RELOADS)]
    command = [str(ensure_python()), str(PEERS / "reload.py"), str(page), *sizes]
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(timeit.timeit(lambda: CODEC.loads(body), number=RELOADS))
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        theirs.append(float(told))
    results.ratios.append(
        Ratio(
            f"reload of {RULES} rules by the schema",
            "pydantic model_validate_json",
            ratios(theirs, ours),
            None,
        )
    )


def _get(url: str, headers: Mapping[str, str]) -> requests.Response:
    answer = requests.get(url, headers=headers, timeout=PATIENCE)
    answer.raise_for_status()
    return answer


def _load(body: bytes) -> RulePage:
    page: RulePage = CODEC.loads(body)
    return page
