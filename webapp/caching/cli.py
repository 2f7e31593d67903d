"""`flask cache`: commands that show, clear and fill the cache."""

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from webapp.caching.cached_function import CachedFunction, registry
from webapp.caching.generations import EPOCH
from webapp.caching.invalidation import invalidate
from webapp.caching.keys import function_of
from webapp.caching.state import current_caching
from webapp.caching.store import Unavailable
from webapp.commands import Commands, as_json, print_json, print_rows, say
from webapp.db.scopes import IdentityScope
from webapp.extensions import db
from webapp.observability.metrics import counted
from webapp.settings import current_settings


class CacheCommands(Commands):
    """A group of commands that fail without Redis, unlike a request."""

    def describe(self, error: Exception) -> str:
        if isinstance(error, Unavailable):
            return "Redis does not answer; see REDIS_URL and `flask doctor`."
        return super().describe(error)


group = CacheCommands(
    "cache", help="Show, clear and fill the cache: typed results of functions, kept in Redis."
)


@dataclass(frozen=True)
class FunctionStats:
    function: str
    keys: int
    bytes: int
    """The memory that the results take in Redis, with its overhead."""
    outcomes: dict[str, int]


@group.command("stats")
@as_json
def stats(*, as_json: bool) -> None:
    """Show keys and bytes for each function, and how its calls came out."""
    sizes = _sizes()
    counted = _outcomes()
    rows = [
        FunctionStats(name, len(held), sum(held), counted.get(name, {}))
        for name in sorted({*registry, *sizes, *counted})
        for held in [sizes.get(name, [])]
    ]
    if as_json:
        print_json({"functions": rows})
    else:
        print_rows(FunctionStats, rows, as_json=False)


@group.command("clear")
@click.option(
    "--function",
    metavar="NAME",
    help="Only the results of the function with this full name, as `stats` shows it.",
)
@as_json
def clear(*, function: str | None, as_json: bool) -> None:
    """Forget what is cached, in Redis and in the memory of every process."""
    store = current_caching().store
    if function is not None:
        _refuse_unknown(function)
    removed = 0
    for keys in store.scan("" if function is None else "value:"):
        chosen = [key for key in keys if function is None or function_of(key) == function]
        removed += store.unlink(chosen) if chosen else 0
    with db.scoped(IdentityScope()):
        invalidate(EPOCH)
        db.session.commit()
    if as_json:
        print_json({"removed": removed})
    else:
        say(f"{removed:,} keys removed")


@group.command("warm")
@as_json
def warm(*, as_json: bool) -> None:
    """Fill the cache: call each cached function with the arguments that it declares."""
    current_caching().store.check()
    calls = [
        (function, arguments)
        for function in registry.values()
        if function.warm is not None
        for arguments in function.warm()
    ]
    outcomes: Counter[str] = Counter()
    progress = Progress(console=Console(stderr=True))
    shown: AbstractContextManager[Any] = nullcontext() if as_json else progress
    with shown:
        task = progress.add_task("warming", total=len(calls))
        for function, arguments in calls:
            outcomes[_call(function, arguments)] += 1
            progress.advance(task)
    if as_json:
        print_json({"calls": len(calls), "outcomes": outcomes})
    else:
        counts = ", ".join(f"{outcome} {count}" for outcome, count in outcomes.items())
        say(f"{len(calls):,} calls: {counts or 'nothing to warm'}")


def _refuse_unknown(function: str) -> None:
    """Raise unless the name is a function of this version, or of one that has left results."""
    known = sorted({*registry, *_sizes()})
    if function not in known:
        names = "\n".join(f"  {name}" for name in known)
        raise click.BadParameter(f"is none of these functions:\n{names}", param_hint="--function")


def _call(function: CachedFunction[Any, ..., Any], arguments: tuple[Any, ...]) -> str:
    with db.scoped(arguments[0]):
        return function(*arguments).outcome


def _sizes() -> dict[str, list[int]]:
    store = current_caching().store
    sizes: dict[str, list[int]] = {}
    for keys in store.scan("value:"):
        for key, size in zip(keys, store.sizes(keys), strict=True):
            sizes.setdefault(function_of(key), []).append(size)
    return sizes


def _outcomes() -> dict[str, dict[str, int]]:
    """Count outcomes, in all web processes if they share their metrics, else in this process."""
    outcomes: dict[str, dict[str, int]] = {}
    with counted(current_settings().prometheus_multiproc_dir) as registry:
        for metric in registry.collect():
            for sample in metric.samples:
                if sample.name == "sightline_cache_requests_total":
                    labels = sample.labels
                    counts = outcomes.setdefault(labels["function"], {})
                    counts[labels["outcome"]] = int(sample.value)
    return outcomes
