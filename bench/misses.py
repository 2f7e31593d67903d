"""What a list costs that is not in the cache: a miss, many requests at once, and the reload."""

import subprocess
import time
import timeit
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from threading import Barrier

import requests

from bench.lists import CODEC, read_list
from bench.peers.environment import ensure_python
from bench.product import RULES, Product
from bench.result import Figure, Ratio, Results, ratios
from bench.servers import PEERS, Place
from webapp.db.scopes import TenantScope
from webapp.extensions import db
from webapp.rules.rule import RuleQuery
from webapp.rules.service import list_rules

COLD = 64
MISSES = 100
RELOADS = 200


def measure_misses(product: Product, place: Place, rounds: int, results: Results) -> None:
    measure_miss(product, results)
    measure_cold(product, results)
    measure_reload(product, place, rounds, results)


def measure_miss(product: Product, results: Results) -> None:
    """One client, one request at a time: a change, the miss that follows it, and a hit."""
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
    added = (median(misses) - median(hits)) * 1e3
    note = f"miss {median(misses) * 1e3:.2f} ms, hit {median(hits) * 1e3:.2f} ms"
    results.figures.append(Figure("a miss adds, p50", added, "ms", note))
    parts = _time_parts(product)
    for what, milliseconds in parts.items():
        results.figures.append(Figure(f"of it: {what}", milliseconds, "ms"))
    rest = added - sum(parts.values())
    note = "generations, single flight, Redis, waiting"
    results.figures.append(Figure("of it: the rest", rest, "ms", note))


def _time_parts(product: Product) -> dict[str, float]:
    """The milliseconds of what only a miss does, each alone and in this process."""
    scope = TenantScope(product.tenant.id)
    with product.app.app_context(), db.scoped(scope):
        page = list_rules.uncached(scope, RuleQuery())
        data = CODEC.dumps(page)
        calls: dict[str, Callable[[], object]] = {
            "rows read from PostgreSQL as objects": lambda: _read(scope),
            "objects written as JSON": lambda: CODEC.dumps(page),
            "JSON loaded by the schema": lambda: CODEC.loads(data),
        }
        return {
            what: median(timeit.repeat(call, number=1, repeat=MISSES)) * 1e3
            for what, call in calls.items()
        }


def _read(scope: TenantScope) -> object:
    db.session.expire_all()  # a request finds no object of the one before
    return list_rules.uncached(scope, RuleQuery())


def measure_cold(product: Product, results: Results) -> None:
    """Many requests at once for a key that a change has just made cold."""
    barrier = Barrier(COLD)

    def send(_: int) -> requests.Response:
        with product.session("acme-admin") as session:
            session.get(product.url + "/healthz")  # connect first, so that all are there at once
            barrier.wait()
            return session.get(product.rules_url)

    with product.session("acme-admin") as session:
        product.change_a_rule(session, MISSES)
    before = product.loads()
    with ThreadPoolExecutor(COLD) as pool:
        answers = list(pool.map(send, range(COLD)))
    loads = product.loads() - before
    results.expect({answer.status_code for answer in answers} == {200}, "a cold request failed")
    results.expect(len({answer.content for answer in answers}) == 1, "cold answers differ")
    results.expect(loads == 1, f"{loads:g} loads for {COLD} concurrent cold requests")
    results.figures.append(Figure(f"{COLD} at once on a cold key", loads, "loads", "at most 1"))


def measure_reload(product: Product, place: Place, rounds: int, results: Results) -> None:
    """The same page loaded by the product's schema and by the original stack's models."""
    body = read_list(product)
    page = place.logs / "page.json"
    page.write_bytes(body)
    sizes = [str(RULES), str(RELOADS)]
    command = [str(ensure_python()), str(PEERS / "reload.py"), str(page), *sizes]
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(timeit.timeit(lambda: CODEC.loads(body), number=RELOADS))
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        theirs.append(float(printed))
    what = f"reload of {RULES} rules by the schema"
    rates = ratios(theirs, ours)
    results.ratios.append(Ratio(what, "pydantic model_validate_json", rates, None))


def _timed(call: Callable[[], requests.Response]) -> tuple[float, requests.Response]:
    began = time.perf_counter()
    response = call()
    return time.perf_counter() - began, response
