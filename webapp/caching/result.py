"""The results of cached functions: frozen dataclasses, stored as the JSON that a schema dumps.

The value of a hit and the value of a miss are both loaded from that JSON. So they are equal.
"""

from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from prometheus_client import Counter

from webapp.caching.generations import Reading
from webapp.caching.local import CacheEntry, Unloadable
from webapp.caching.state import Caching
from webapp.db.scopes import Scope

S = TypeVar("S", bound=Scope)
T = TypeVar("T")

CacheOutcome = Literal[
    "hit_local",  # from this process's memory
    "hit",  # from Redis
    "stale",  # served while another caller refreshes the value
    "refreshed",
    "miss",
    "expired",
    "outdated",
    "corrupt",
    "forged",
    "version",
    "fingerprint",
    "unloadable",
    "unavailable",  # Redis did not answer
    "bypass",  # the transaction sees rows that others do not see
]

REQUESTS = Counter(
    "sightline_cache_requests_total", "Calls of cached functions.", ["function", "outcome"]
)


class WrongScope(RuntimeError):
    """A cached function was called for one scope while the session is in another."""


class Call(NamedTuple, Generic[S]):
    """One call of a cached function. A dataclass would take longer."""

    caching: Caching
    scope: S
    arguments: tuple[Any, ...]
    tags: frozenset[str]
    key: str


class Found(NamedTuple):
    """The result of searching the cache for a call: an entry, or the reason why there is none."""

    entry: CacheEntry | None
    outcome: CacheOutcome
    reading: Reading


class Cached(Generic[T]):
    """A result: its JSON, and its objects, which are loaded when a caller asks for them."""

    __slots__ = ("_entry", "_reload", "outcome")

    def __init__(
        self, entry: CacheEntry, outcome: CacheOutcome, reload: Callable[[], CacheEntry]
    ) -> None:
        self._entry = entry
        self._reload = reload
        self.outcome: CacheOutcome = outcome
        """How the result was obtained; all but `hit_local`, `hit` and `stale` were computed now."""

    @property
    def json(self) -> bytes:
        """The JSON that the schema dumped, byte for byte."""
        return self._entry.json

    @property
    def etag(self) -> str:
        """The strong entity tag of `json`, with its quotes."""
        return self._entry.etag

    @property
    def value(self) -> T:
        """The object of the declared type, loaded from `json`.

        A stored payload that cannot be loaded is computed anew.
        """
        try:
            value: T = self._entry.value
        except Unloadable:
            self._entry = self._reload()
            value = self._entry.value
        return value
