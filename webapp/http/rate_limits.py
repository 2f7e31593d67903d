"""How many requests a client may send, and how many of them may be refused: token buckets in this
process's memory.

Nothing here waits, and nothing depends on another server. Each process counts for itself. All of it
takes 15 of the 200 µs that a cached answer takes.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from threading import Lock
from time import monotonic

from flask import Flask, current_app, request

from webapp.http.addresses import address, site
from webapp.http.errors import RateLimited
from webapp.http.public import is_public
from webapp.http.state import RequestState
from webapp.settings import Settings

BURST = 10.0
"""Seconds for which a client that has been quiet may send without pause."""

HOUR = 3600.0

KNOWN = 10_000
"""Buckets of each limit that are kept. The one that was made first is dropped first."""

_EXTENSION = "rate_limits"


class Limit:
    """A token bucket for each key, of which `number` tokens come back in `seconds`; 0: no limit.

    It holds what comes back in `burst` seconds.
    """

    def __init__(
        self,
        name: str,
        number: float,
        *,
        seconds: float = 1.0,
        burst: float = BURST,
        counted: str = "requests",
    ) -> None:
        self.name = name
        self.rate = rate = number / seconds
        self.size = max(1.0, number * (burst / seconds))
        self.counted = counted
        self.policy = f'"{name}";q={int(self.size)};w={ceil(self.size / rate) if rate else 0}'
        """The value of `RateLimit-Policy`."""
        self._seconds = 1 / rate if rate else 0.0
        """Until a token comes back."""
        self._full_at: dict[Hashable, float] = {}
        """When each bucket is full again, which says all about it."""
        self._lock = Lock()

    def take(self, key: Hashable) -> float:
        """Take a token, and return how many are left. Raises `RateLimited` where none was."""
        if not self.rate:
            return self.size
        now = monotonic()
        with self._lock:
            owed = max(0.0, self._full_at.get(key, now) - now)
            # In this order, so that no rounding takes the only token of a full bucket.
            tokens = self.size - 1 - owed * self.rate
            if tokens >= 0:
                self._full_at[key] = now + owed + self._seconds
                if len(self._full_at) > KNOWN:
                    del self._full_at[next(iter(self._full_at))]
                return tokens
        raise self._refusal(-tokens)

    def check(self, key: Hashable) -> None:
        """Raise `RateLimited` where no token is left; take none."""
        if not self.rate:
            return
        now = monotonic()
        missing = 1 - (self.size - (self._full_at.get(key, now) - now) * self.rate)
        if missing > 0:
            raise self._refusal(missing)

    def count(self, key: Hashable, state: RequestState) -> None:
        """Take a token for a request, which tells the limit of which least is left."""
        tokens = self.take(key)
        if self.rate and (state.limit is None or tokens < state.tokens):
            state.limit, state.tokens = self, tokens

    def left(self, tokens: float) -> str:
        """The value of `RateLimit`: what is left, and the seconds until it is all there again."""
        seconds = ceil((self.size - tokens) * self._seconds)
        return f'"{self.name}";r={int(tokens)};t={seconds}'

    def _refusal(self, missing: float) -> RateLimited:
        wait = max(1, ceil(missing * self._seconds))
        return RateLimited(
            f"More {self.counted} than the limit “{self.name}” allows.",
            retry_after=wait,
            headers={"RateLimit": f'"{self.name}";r=0;t={wait}', "RateLimit-Policy": self.policy},
        )


@dataclass(frozen=True)
class RateLimits:
    """The limits of one application."""

    address: Limit
    public: Limit
    """Requests of an address for public routes, and for none. It is apart from the others, so that
    a load balancer's probes pass whatever else comes from its address."""
    failures: Limit
    """Bad credentials of an address."""
    principal: Limit
    tenant: Limit
    denied: Limit
    """Attempts of one actor that are refused, each of which is on record for good."""


def init_app(app: Flask) -> None:
    settings: Settings = app.extensions["settings"]
    # All clients share the address of a proxy that is not known to be one.
    shared = settings.deployed and settings.trusted_proxies is None
    app.extensions[_EXTENSION] = RateLimits(
        address=Limit("address", 0 if shared else settings.rate_limit_address),
        public=Limit("address", 0 if shared else settings.rate_limit_address),
        failures=Limit(
            "failures", 0 if shared else settings.rate_limit_failures, counted="bad credentials"
        ),
        principal=Limit("principal", settings.rate_limit_principal),
        tenant=Limit("tenant", settings.rate_limit_tenant),
        denied=Limit(
            "denied",
            settings.rate_limit_denied,
            seconds=HOUR,
            burst=HOUR,
            counted="refused attempts",
        ),
    )

    app.before_request(_count_public)


def _count_public() -> None:
    """Count a request that no surface counts."""
    view = current_app.view_functions.get(request.endpoint or "")
    if view is None or is_public(view):
        current_limits().public.take(client_site(request.remote_addr))


def current_limits() -> RateLimits:
    limits: RateLimits = current_app.extensions[_EXTENSION]
    return limits


@lru_cache(KNOWN)
def client_site(client: str | None) -> str | None:
    """What the requests of a client's address are counted by."""
    known = address(client)
    return None if known is None else site(known)
