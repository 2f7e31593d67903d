"""The cached list, plain and elevated, beside its peers, all with the same rules."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median

import requests

from bench.load import Run, Target, run
from bench.product import RULES, Product
from bench.result import Figure, Ratio, Results, ratios
from bench.servers import (
    Place,
    RecordingPeer,
    cpu_seconds,
    memory_mb,
    run_bare,
    run_delay,
    run_original,
    run_own_insert,
)
from tests.factories import INCIDENT
from tests.processes import Web
from webapp.caching.codec import Codec
from webapp.rules.rule import RulePage
from webapp.rules.schemas import RulePageSchema

PLAIN = "cached list"
ELEVATED = "cached list, elevated and recorded"
NOT_MODIFIED = "cached list, 304"
BARE = "bare Flask, one Redis GET"
INSERTED = "bare Flask, its own INSERT and COMMIT"
DELAYED = "bare Flask, delay() for each"
ORIGINAL = "FastAPI, fastapi-cache2, pydantic"

COMPARED: tuple[tuple[str, str, float | None], ...] = (
    (PLAIN, BARE, 0.7),
    (PLAIN, ORIGINAL, 6),
    (ELEVATED, BARE, 0.48),
    (ELEVATED, INSERTED, 1),
    (ELEVATED, DELAYED, 1),
    (ELEVATED, PLAIN, None),
    (NOT_MODIFIED, PLAIN, None),
)
"""What is divided by what, and the bar of the ratio."""

CHECKED = 2
"""Seconds of a run in which every answer is checked, before those that are timed."""

POLL = 0.3
PATIENCE = 120
"""Seconds that workers may take to commit what the answers of a run have left."""

CODEC = Codec(RulePageSchema(), many=False)


@dataclass(frozen=True)
class Contender:
    """A list that is measured: its request, its server, and where its answers leave rows."""

    target: Target
    web: Web
    count_rows: Callable[[], int] | None = None


def measure_lists(product: Product, place: Place, slices: int, results: Results) -> None:
    """Measure every list in slices of a second, in turns, and check what the answers have left."""
    with ExitStack() as stack:
        body = read_list(product)
        bare = stack.enter_context(run_bare(place, body))
        inserted = stack.enter_context(run_own_insert(place, body))
        delayed = stack.enter_context(run_delay(place, body))
        original = stack.enter_context(run_original(place, body))
        reason = {"Sightline-Reason": INCIDENT}
        contenders = [
            *_products_own(product, body, results),
            Contender(Target(BARE, f"{bare.url}/rules", body), bare),
            *(
                Contender(
                    Target(name, f"{peer.web.url}/rules", body, reason), peer.web, peer.count_rows
                )
                for name, peer in ((INSERTED, inserted), (DELAYED, delayed))
            ),
            _original(original, body, results),
        ]
        runs = measure_in_turns(contenders, slices, results)
        _check_peer(INSERTED, inserted, runs[INSERTED], results)
        _check_peer(DELAYED, delayed, runs[DELAYED], results)
    for what, against, bar in COMPARED:
        compare(results, runs, what, against, bar)
    report_runs(results, runs)
    _check_ledger(product, runs[ELEVATED], results)
    results.figures.append(Figure("the list", len(body) / 1e3, "KB", f"{RULES} rules"))
    results.figures.append(Figure("memory of a web process", memory_mb(product.web), "MB", "PSS"))


def read_list(product: Product) -> bytes:
    """The list as its tenant's administrator gets it."""
    return _get(product.rules_url, product.accounts["acme-admin"].headers()).content


def measure_in_turns(
    contenders: Sequence[Contender], slices: int, results: Results
) -> dict[str, list[Run]]:
    """Run each contender for a second, then all of them again, each time another one first.

    The machine's speed changes by the second, so what is compared is measured side by side. A
    contender that leaves rows is followed by a rest until they have landed: else the next one
    would share its core's neighbour with them.
    """
    runs: dict[str, list[Run]] = {contender.target.name: [] for contender in contenders}
    for contender in contenders:
        checked = run(contender.target, CHECKED, check=True)
        name, wrong = contender.target.name, checked.wrong
        results.expect(checked.requests > 0, f"{name}: no answer at all")
        results.expect(wrong == 0, f"{name}: {wrong} wrong answers")
        _await_rest(contender)
    for number in range(slices):
        first = number % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            timed = _run_a_second(contender)
            name, wrong = contender.target.name, timed.wrong
            results.expect(wrong == 0, f"{name}: {wrong} answers failed under load")
            runs[name].append(timed)
            _await_rest(contender)
    return runs


def compare(
    results: Results, runs: Mapping[str, Sequence[Run]], what: str, against: str, bar: float | None
) -> None:
    rates = [[timed.rate for timed in runs[name]] for name in (what, against)]
    ours, theirs = (median(timed.cpu_us for timed in runs[name]) for name in (what, against))
    results.ratios.append(Ratio(what, against, ratios(*rates), bar, (ours, theirs)))


def report_runs(results: Results, runs: Mapping[str, Sequence[Run]]) -> None:
    for name, timed in runs.items():
        note = (
            f"p50 {median(run.p50_ms for run in timed):.2f} ms,"
            f" p99 {median(run.p99_ms for run in timed):.2f} ms,"
            f" CPU {median(run.cpu_us for run in timed):.0f} µs"
        )
        results.figures.append(Figure(name, median(run.rate for run in timed), "/s", note))


def _products_own(product: Product, body: bytes, results: Results) -> list[Contender]:
    """The product's list, plain, elevated and unchanged since the client read it."""
    plain = product.accounts["acme-admin"].headers()
    elevated = product.accounts["engineer"].headers("global", INCIDENT)
    of_all_tenants = _get(product.rules_url, elevated).content
    for shown in (_load(body), _load(of_all_tenants)):
        results.expect(len(shown.items) == RULES, f"{len(shown.items)} rules instead of {RULES}")
    etag = _get(product.rules_url, plain).headers["ETag"]
    targets = (
        Target(PLAIN, product.rules_url, body, plain, requires=("etag",)),
        Target(
            ELEVATED,
            product.rules_url,
            of_all_tenants,
            elevated,
            requires=("etag", "sightline-excluded"),
            unique=("sightline-audit",),
        ),
        Target(NOT_MODIFIED, product.rules_url, b"", plain | {"If-None-Match": etag}, status=304),
    )
    return [
        Contender(target, product.web, product.committed_accesses if target.unique else None)
        for target in targets
    ]


def _original(web: Web, body: bytes, results: Results) -> Contender:
    """The original stack; it writes the same rules in a form of its own."""
    url = f"{web.url}/rules"
    answered = _get(url, {}).content
    results.expect(_load(answered) == _load(body), f"{ORIGINAL}: not the same rules")
    return Contender(Target(ORIGINAL, url, answered), web)


def _run_a_second(contender: Contender) -> Run:
    before = cpu_seconds(contender.web)
    timed = run(contender.target, 1)
    return replace(timed, cpu_seconds=cpu_seconds(contender.web) - before)


def _await_rest(contender: Contender) -> None:
    """Wait until no more rows land."""
    if contender.count_rows is None:
        return
    deadline = time.monotonic() + PATIENCE
    before, now = -1, contender.count_rows()
    while now != before and time.monotonic() < deadline:
        time.sleep(POLL)
        before, now = now, contender.count_rows()


def _check_peer(name: str, peer: RecordingPeer, runs: Sequence[Run], results: Results) -> None:
    """Each answer has left one row. More were answered than received: those that were on their
    way when a run ended, and those before the timed runs."""
    answers = peer.count_answers()
    rows = _await_rows(peer.count_rows, answers)
    received = sum(timed.requests for timed in runs)
    results.expect(answers >= received, f"{name}: {received} answers of {answers}")
    results.expect(rows == answers, f"{name}: {rows} rows for {answers} answers")
    results.figures.append(Figure(f"{name}: rows", rows, "", f"{answers} answers"))


def _check_ledger(product: Product, runs: Sequence[Run], results: Results) -> None:
    """Each elevated answer has left one event in the ledger."""
    answers, received = product.elevated_answers(), sum(timed.requests for timed in runs)
    committed = _await_rows(product.committed_accesses, answers)
    results.expect(answers >= received, f"{received} answers came, {answers} are in the log")
    found = f"{committed} accesses in the ledger for {answers} elevated answers"
    results.expect(committed == answers, found)
    results.figures.append(Figure("accesses in the ledger", committed, "", f"{answers} answers"))


def _await_rows(count: Callable[[], int], target: int) -> int:
    deadline = time.monotonic() + PATIENCE
    while (rows := count()) < target and time.monotonic() < deadline:
        time.sleep(POLL)
    return rows


def _get(url: str, headers: Mapping[str, str]) -> requests.Response:
    answer = requests.get(url, headers=headers, timeout=PATIENCE)
    answer.raise_for_status()
    return answer


def _load(body: bytes) -> RulePage:
    page: RulePage = CODEC.loads(body)
    return page
