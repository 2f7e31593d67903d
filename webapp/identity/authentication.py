"""Authentication: the principal of a request, by any credential that the request carries.

A new kind of credential (a session's cookie, a client's certificate) is one more function in
`AUTHENTICATORS`.
"""

from collections.abc import Callable

from flask import Flask, Request
from prometheus_client import Counter

from webapp.http.errors import Unauthenticated
from webapp.http.rate_limits import client_site, current_limits
from webapp.http.state import current_state
from webapp.identity import lookup, tokens
from webapp.identity.principal import Principal
from webapp.identity.tokens import Expect, expect_nothing

Authenticator = Callable[[Request, Expect], Principal | None]
"""Authenticates a request by one kind of credential: returns the principal, or `None` where the
request carries no credential of this kind. Raises `Unauthenticated` for one that is not good."""

AUTHENTICATORS: tuple[Authenticator, ...] = (tokens.authenticate_bearer,)
"""Tried in this order; the first that knows the credential decides."""

FAILURES = Counter(
    "sightline_auth_failures_total", "Requests without credentials, or with bad ones."
)


def init_app(app: Flask) -> None:
    lookup.init_app(app)
    tokens.init_app(app)


def authenticate(request: Request, expect: Expect = expect_nothing) -> Principal:
    """The principal that a request comes from; raises `Unauthenticated`, or `RateLimited`."""
    limits, state = current_limits(), current_state()
    client = client_site(request.remote_addr)
    limits.address.count(client, state)
    try:
        principal = _principal(request, expect)
    except Unauthenticated:
        FAILURES.inc()
        limits.failures.take(client)
        raise
    limits.principal.count(principal.id.int, state)
    return principal


def _principal(request: Request, expect: Expect) -> Principal:
    for authenticator in AUTHENTICATORS:
        principal = authenticator(request, expect)
        if principal is not None:
            return principal
    raise Unauthenticated("Send an API token: `Authorization: Bearer slt_…`.")
