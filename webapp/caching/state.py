"""The cache's state for an application, in `app.extensions`."""

from dataclasses import dataclass, field

from flask import Flask, current_app

from webapp.caching import envelope, generations
from webapp.caching.generations import LEASE, SKEW, Generations
from webapp.caching.local import LocalCache
from webapp.caching.single_flight import SingleFlight
from webapp.caching.store import Store, Verbatim
from webapp.extensions import cache
from webapp.key_ring import KeyRing
from webapp.settings import Settings

APPLICATION = "sightline"
_EXTENSION = "caching"


@dataclass(frozen=True)
class Caching:
    store: Store
    generations: Generations
    envelope_keys: KeyRing
    ttl: int
    entries: LocalCache = field(default_factory=LocalCache)
    single_flight: SingleFlight = field(default_factory=SingleFlight)


def current_caching() -> Caching:
    caching: Caching = current_app.extensions[_EXTENSION]
    return caching


def init_app(app: Flask) -> None:
    """Make the cache from the application's settings; connects to nothing yet."""
    settings: Settings = app.extensions["settings"]
    prefix = f"{APPLICATION}:{settings.env}:cache:"
    keys = settings.secret_keys
    store = Store(settings.redis_url, prefix, settings.cache_timeout, LEASE + SKEW)
    cache.init_app(
        app,
        {
            "CACHE_TYPE": "RedisCache",
            "CACHE_REDIS_HOST": store.client,  # a client instead of a host: one pool for all
            "CACHE_KEY_PREFIX": prefix,
            "CACHE_SERIALIZER": Verbatim(),
            "CACHE_DEFAULT_TIMEOUT": settings.cache_ttl,
        },
    )
    app.extensions[_EXTENSION] = Caching(
        store=store,
        generations=Generations(store, keys.derive(f"lease {prefix}", generations.MAC_BYTES)),
        envelope_keys=keys.derive(f"envelope {prefix}", envelope.MAC_BYTES),
        ttl=settings.cache_ttl,
    )
