"""The client's address and scheme, where proxies stand between the client and the web process.

`TRUSTED_PROXIES` names the proxies whose headers are believed. What a client writes into these
headers stands to the left of what the trusted proxies add, and is never read.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.http import parse_list_header
from werkzeug.middleware.proxy_fix import ProxyFix

from webapp.http.addresses import IpAddress, IpNetwork, address

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def init_app(app: Flask) -> None:
    proxies = app.extensions["settings"].trusted_proxies
    if proxies:
        wrapped = behind_proxies(app.wsgi_app, proxies)
        app.wsgi_app = wrapped  # type: ignore[assignment,method-assign]  # as Flask documents middleware


def behind_proxies(app: "WSGIApplication", proxies: int | Sequence[IpNetwork]) -> "WSGIApplication":
    """Wrap an application, so that `REMOTE_ADDR` is the client's address.

    `proxies` is how many stand in front of it, or the networks that they are in. Behind networks,
    `X-Forwarded-For` is read from the right, past the addresses of trusted proxies only.
    """
    app = _with_known_address(app)
    if isinstance(proxies, int):
        return ProxyFix(app, x_for=proxies, x_proto=1)

    def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        peer = environ.get("REMOTE_ADDR")
        forwarded = parse_list_header(environ.get("HTTP_X_FORWARDED_FOR", ""))
        fix = ProxyFix(
            app,
            x_for=_count_hops(peer, forwarded, proxies),
            x_proto=int(_is_in(peer, proxies)),
        )
        return fix(environ, start_response)

    return application


def is_proxy(peer: IpAddress, proxies: int | Sequence[IpNetwork] | None) -> bool:
    """Whether the address that connects is that of a trusted proxy."""
    if proxies is None or isinstance(proxies, int):
        return bool(proxies)
    return any(peer in network for network in proxies)


def _count_hops(peer: str | None, forwarded: Sequence[str], proxies: Sequence[IpNetwork]) -> int:
    """The number of entries from the right that trusted proxies have written."""
    hops, proxy = 0, peer
    for entry in reversed(forwarded):
        if not _is_in(proxy, proxies):
            break
        hops, proxy = hops + 1, entry
    return hops


def _is_in(text: str | None, networks: Iterable[IpNetwork]) -> bool:
    known = address(text)
    return known is not None and any(known in network for network in networks)


def _with_known_address(app: "WSGIApplication") -> "WSGIApplication":
    """Wrap an application, so that it sees a valid address or none. Without one, rules deny."""

    def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        known = address(environ.pop("REMOTE_ADDR", None))
        if known is not None:
            environ["REMOTE_ADDR"] = str(known)
        return app(environ, start_response)

    return application
