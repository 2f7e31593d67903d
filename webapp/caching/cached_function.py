"""The decorator `cache_result`, and the cached function that finds, awaits or computes a result.

A stored value that is corrupt, forged, of another release or outdated is a miss. It is counted by
its defect, and overwritten. A failure of Redis is a miss as well.
"""

from collections.abc import Callable, Iterable
from functools import update_wrapper
from inspect import Parameter, signature
from math import ceil
from time import monotonic, sleep
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import marshmallow as ma
from prometheus_client import Counter

from webapp.caching.codec import Codec
from webapp.caching.envelope import Envelope, Rejected, seal, unseal
from webapp.caching.generations import EPOCH, Reading, now_ms, reads_committed_only
from webapp.caching.invalidation import is_noted
from webapp.caching.keys import value_key
from webapp.caching.local import CacheEntry
from webapp.caching.result import REQUESTS, Cached, CacheOutcome, Call, Found, WrongScope
from webapp.caching.state import current_caching
from webapp.caching.store import Unavailable
from webapp.db.scopes import Scope
from webapp.extensions import db

S = TypeVar("S", bound=Scope)
P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 1.0
"""Seconds that a caller waits for another one's fill before it computes the value itself."""

POLL = 0.02
REFRESH_AFTER = 0.8
"""The part of its life after which one caller refreshes a value, unless `soft_ttl` is given."""


class CachedFunction(Generic[S, P, T]):
    """A function of a scope and canonical arguments, whose results are cached."""

    def __init__(
        self,
        function: Callable[Concatenate[S, P], T],
        codec: Codec,
        *,
        tags: Callable[..., Iterable[str]],
        ttl: float | None,
        soft_ttl: float | None,
        warm: Callable[[], Iterable[tuple[Any, ...]]] | None,
    ) -> None:
        self.uncached = function
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.warm = warm
        self._codec = codec
        self.tags = tags
        self._ttl = ttl
        self._soft_ttl = soft_ttl
        self._signature = signature(function)
        self._arity = len(self._signature.parameters) - 1
        self._counters: dict[CacheOutcome, Counter] = {}
        _refuse_variadic(self._signature.parameters.values())
        update_wrapper(self, function)

    def __call__(self, scope: S, /, *args: P.args, **kwargs: P.kwargs) -> Cached[T]:
        arguments = self._positional(scope, args, kwargs)
        visibility = scope.visibility
        caching = current_caching()
        entered = db.scope
        if entered is not None and entered.visibility != visibility:
            raise WrongScope(f"{self.name} was called for {visibility}: enter that scope first")
        call = Call(
            caching,
            scope,
            arguments,
            frozenset(self.tags(scope, *arguments)),
            value_key(self.name, visibility, arguments),
        )
        if is_noted(call.tags):
            reading = caching.generations.read(call.tags)
            return self._compute(call, Found(None, "bypass", reading))
        found = self._find(call)
        if found.entry is None or found.outcome == "stale":
            return self._fill(call, found)
        return self._answer(call, found.entry, found.outcome)

    def _positional(
        self, scope: S, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ...]:
        if not kwargs and len(args) == self._arity:
            return args
        bound = self._signature.bind(scope, *args, **kwargs)
        bound.apply_defaults()
        return bound.args[1:]

    def _answer(self, call: Call[S], entry: CacheEntry, outcome: CacheOutcome) -> Cached[T]:
        self._count(outcome)
        return Cached(entry, outcome, lambda: self._reload(call))

    def _count(self, outcome: CacheOutcome) -> None:
        counter = self._counters.get(outcome)
        if counter is None:
            counter = self._counters[outcome] = REQUESTS.labels(self.name, outcome)
        counter.inc()

    def _reload(self, call: Call[S]) -> CacheEntry:
        self._count("unloadable")
        call.caching.entries.drop(call.key)
        reading = call.caching.generations.read(call.tags, fresh=True)
        return self._load(call, reading)[0]

    def _find(self, call: Call[S], *, fresh: bool = False) -> Found:
        """Find a result without computing it: in this process's memory, or else in Redis."""
        generations = call.caching.generations
        held = call.caching.entries.get(call.key)
        stale: CacheEntry | None = None
        if held is not None:
            reading = generations.read(call.tags, fresh=fresh)
            age = _age(held, reading)
            if age == "hit":
                return Found(held, "hit_local", reading)
            stale = held if age == "stale" else None
        reading = generations.read(call.tags, call.key, fresh=fresh)
        entry, outcome = self._unpack(call, reading)
        if outcome == "hit" and entry is not None:
            call.caching.entries.put(call.key, entry)
        elif stale is not None and stale.generations == reading.generations:
            return Found(stale, "stale", reading)
        return Found(entry, outcome, reading)

    def _unpack(self, call: Call[S], reading: Reading) -> tuple[CacheEntry | None, CacheOutcome]:
        if reading.stored is None:
            return None, "miss" if reading.reachable else "unavailable"
        try:
            envelope = unseal(reading.stored, call.caching.envelope_keys, call.key)
        except Rejected as rejected:
            return None, rejected.defect
        if envelope.fingerprint != self._codec.fingerprint:
            return None, "fingerprint"
        # EPOCH ends what processes hold in memory. Values in Redis stay current.
        generations = {**envelope.generations, EPOCH: reading.generations[EPOCH]}
        entry = CacheEntry(envelope, generations, self._codec.loads)
        outcome = _age(entry, reading)
        return (entry if outcome in ("hit", "stale") else None), outcome

    def _fill(self, call: Call[S], found: Found) -> Cached[T]:
        """Compute the value once, however many callers ask for it.

        The other callers wait for the result, without a database connection. Where there is a stale
        entry, they take it and do not wait.
        """
        deadline = monotonic() + (PATIENCE if found.entry is None else 0)
        while True:
            with call.caching.single_flight.enter(call.key) as done:
                if done is None:
                    return self._lead(call, found, deadline)
            is_done = done.wait(max(0.0, deadline - monotonic()))
            if found.entry is None:
                found = self._find(call, fresh=True)
            if found.entry is not None:
                return self._answer(call, found.entry, found.outcome)
            if not is_done:
                return self._compute(call, found)

    def _lead(self, call: Call[S], found: Found, deadline: float) -> Cached[T]:
        """Compute the value for this process, unless another process is computing it."""
        store = call.caching.store
        while (token := store.acquire_fill(call.key)) is None:
            if found.entry is not None:
                return self._answer(call, found.entry, found.outcome)
            if monotonic() >= deadline:
                return self._compute(call, found)
            sleep(POLL)
            found = self._find(call, fresh=True)
        try:
            found = self._find(call, fresh=True)  # another process may have filled it meanwhile
            if found.entry is not None and found.outcome != "stale":
                return self._answer(call, found.entry, found.outcome)
            return self._compute(call, found)
        finally:
            store.release_fill(call.key, token)

    def _compute(self, call: Call[S], found: Found) -> Cached[T]:
        entry, stored = self._load(call, found.reading, store=found.outcome != "bypass")
        outcome = found.outcome if stored else "bypass"
        return self._answer(call, entry, "refreshed" if outcome == "stale" else outcome)

    def _load(
        self, call: Call[S], reading: Reading, *, store: bool = True
    ) -> tuple[CacheEntry, bool]:
        """Call the function and store its result, unless its transaction sees rows of its own.

        `reading` was made before the call, so that a write during the call outdates the value.
        """
        session = db.session
        opened = not session.in_transaction()
        try:
            payload = self._codec.dumps(self.uncached(call.scope, *call.arguments))  # type: ignore[call-arg]  # P's arguments, made positional
            storable = store and (opened or reads_committed_only(session))
        finally:
            if opened and session.in_transaction():
                session.rollback()
        envelope = self._envelope(call, reading, payload)
        entry = CacheEntry(envelope, reading.generations, self._codec.loads)
        if storable:
            call.caching.entries.put(call.key, entry)
            self._store(call, envelope)
        return entry, storable

    def _envelope(self, call: Call[S], reading: Reading, payload: bytes) -> Envelope:
        ttl = self._ttl if self._ttl is not None else call.caching.ttl
        soft_ttl = self._soft_ttl if self._soft_ttl is not None else ttl * REFRESH_AFTER
        now = now_ms()
        return Envelope(
            fingerprint=self._codec.fingerprint,
            created=now,
            soft=now + int(soft_ttl * 1000),
            hard=now + int(ttl * 1000),
            generations={tag: reading.generations[tag] for tag in call.tags},
            payload=payload,
        )

    def _store(self, call: Call[S], envelope: Envelope) -> None:
        sealed = seal(envelope, call.caching.envelope_keys, call.key)
        seconds = max(1, ceil((envelope.hard - envelope.created) / 1000))
        try:
            call.caching.store.set(call.key, sealed, seconds)
        except Unavailable:
            return  # this process keeps the value, and the next fill tries again


def _age(entry: CacheEntry, reading: Reading) -> CacheOutcome:
    if entry.generations != reading.generations:
        return "outdated"
    now = now_ms()
    if now >= entry.hard:
        return "expired"
    return "stale" if now >= entry.soft else "hit"


def _refuse_variadic(parameters: Iterable[Parameter]) -> None:
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    if any(parameter.kind not in positional for parameter in parameters):
        raise TypeError("a cached function takes positional parameters only")


registry: dict[str, CachedFunction[Any, ..., Any]] = {}
"""Every cached function by its name."""


def cache_result(
    *,
    schema: type[ma.Schema],
    tags: Callable[..., Iterable[str]],
    many: bool = False,
    ttl: float | None = None,
    soft_ttl: float | None = None,
    warm: Callable[[], Iterable[tuple[Any, ...]]] | None = None,
) -> Callable[[Callable[Concatenate[S, P], T]], CachedFunction[S, P, T]]:
    """Cache what a function returns for a scope and arguments, as `schema` dumps and loads it.

    The first parameter is the scope; `keys.canonical` defines the types of the others. The result
    is an instance of the schema's model, or None; with `many`, a tuple of instances. It must depend
    only on the arguments and on the rows visible in the scope. The `tags` are made from the same
    arguments, and every write to those rows must `invalidate` one of them.

    A value ends `ttl` seconds after its fill, by default CACHE_TTL. After `soft_ttl` seconds one
    caller refreshes it. `warm` yields argument tuples for `flask cache warm`.
    """

    def decorate(function: Callable[Concatenate[S, P], T]) -> CachedFunction[S, P, T]:
        cached = CachedFunction(
            function,
            Codec(schema(), many=many),
            tags=tags,
            ttl=ttl,
            soft_ttl=soft_ttl,
            warm=warm,
        )
        registry[cached.name] = cached
        return cached

    return decorate
