"""The cache's state for an application, in `app.extensions`."""

from dataclasses import dataclass, field
from hashlib import blake2b

from flask import Flask, current_app

from webapp.caching.generations import LEASE, SKEW, Generations
from webapp.caching.local import LocalCache
from webapp.caching.single_flight import SingleFlight
from webapp.caching.store import Store, Verbatim
from webapp.extensions import cache
from webapp.settings import Settings

APPLICATION = "sightline"
_EXTENSION = "caching"


@dataclass(frozen=True)
class Caching:
    store: Store
    generations: Generations
    envelope_key: bytes
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
        generations=Generations(store, _derived_key(settings.secret_key, prefix, b"lease")),
        envelope_key=_derived_key(settings.secret_key, prefix, b"envelope"),
        ttl=settings.cache_ttl,
    )


def _derived_key(secret: str, prefix: str, use: bytes) -> bytes:
    root = blake2b(secret.encode()).digest()
    return blake2b(prefix.encode(), key=root, digest_size=32, person=use).digest()
