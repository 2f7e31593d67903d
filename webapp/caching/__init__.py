"""Typed results that are cached across processes and never out of date.

    @cache_result(schema=PageSchema, tags=lambda scope, query: [f"rules:{scope.tag}"])
    def list_rules(scope: Scope, query: RuleQuery) -> Page: ...

    cached = list_rules(scope, query)   # cached.value, cached.json, cached.etag, cached.outcome
    invalidate("rules:global")          # in the transaction that changes rows

`generations` explains why no outdated result is served, and `envelope` defines what is stored.
"""

from collections.abc import Iterable, Mapping

from webapp.caching.cached_function import CachedFunction, cache_result
from webapp.caching.generation_cache import GenerationCache
from webapp.caching.invalidation import invalidate
from webapp.caching.models import CacheGeneration
from webapp.caching.result import Cached, CacheOutcome, WrongScope
from webapp.caching.single_flight import SingleFlight
from webapp.caching.state import current_caching, init_app

__all__ = [
    "CacheGeneration",
    "CacheOutcome",
    "Cached",
    "CachedFunction",
    "GenerationCache",
    "SingleFlight",
    "WrongScope",
    "cache_result",
    "init_app",
    "invalidate",
    "read_generations",
]


def read_generations(tags: Iterable[str]) -> Mapping[str, int]:
    """Read the current generations of `tags` in one round trip; a tag never invalidated has 0.

    Ask early for all the tags that a request will need: what was read a moment ago is not read
    again.
    """
    return current_caching().generations.read(tags).generations
