"""What a cached function returns: frozen dataclasses, kept as the JSON that their schema dumps.

A hit and a miss alike are loaded from that JSON, so they are equal by construction.
"""

from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from prometheus_client import Counter

from webapp.caching.generations import Reading
from webapp.caching.local import Entry, Unloadable
from webapp.caching.state import Caching
from webapp.db.scopes import Scope

S = TypeVar("S", bound=Scope)
T = TypeVar("T")

CacheOutcome = Literal[
    "hit_local",  # from this process's memory
    "hit",  # from Redis
    "stale",  # due for a refresh that somebody else is making
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
    "bypass",  # the transaction has changes of its own
]

REQUESTS = Counter(
    "sightline_cache_requests_total", "Calls of cached functions.", ["function", "outcome"]
)


class WrongScope(RuntimeError):
    """A cached function was called for one scope while the session is in another."""


class Call(NamedTuple, Generic[S]):
    """One call of a cached function; as `Reading`, for want of time."""

    caching: Caching
    scope: S
    arguments: tuple[Any, ...]
    tags: frozenset[str]
    key: str


class Found(NamedTuple):
    """What was found for a call: an entry that may be served, or none and why."""

    entry: Entry | None
    outcome: CacheOutcome
    reading: Reading


class Cached(Generic[T]):
    """A result: its JSON at once, its objects when they are asked for."""

    __slots__ = ("_entry", "_reload", "outcome")

    def __init__(self, entry: Entry, outcome: CacheOutcome, reload: Callable[[], Entry]) -> None:
        self._entry = entry
        self._reload = reload
        self.outcome: CacheOutcome = outcome
        """How it came about; all but `hit_local`, `hit` and `stale` were computed just now."""

    @property
    def json(self) -> bytes:
        """What the schema dumped, byte for byte."""
        return self._entry.json

    @property
    def etag(self) -> str:
        """A strong entity tag of `json`, in its quotes."""
        return self._entry.etag

    @property
    def value(self) -> T:
        """The declared type, loaded from `json`; a stored payload that does not load is computed
        anew."""
        try:
            value: T = self._entry.value
        except Unloadable:
            self._entry = self._reload()
            value = self._entry.value
        return value
