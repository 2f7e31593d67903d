"""Flask, without what it does in each request for applications that this is none of."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from flask import Flask, Request, Response
from flask.ctx import RequestContext
from werkzeug.datastructures import Headers
from werkzeug.routing import Map, MapAdapter, Rule
from werkzeug.sansio.utils import get_host

HOSTS = 256
"""Spellings of the `Host` header whose meaning is remembered."""


class LeanResponse(Response):
    def get_wsgi_headers(self, environ: Any) -> Headers:
        """As they are, where the body passes through as it is: werkzeug would copy them one by one,
        to mend what is wrong only with redirects, and with bodies that must not be."""
        if self.direct_passthrough and self._is_sound():
            return self.headers
        return super().get_wsgi_headers(environ)

    def _is_sound(self) -> bool:
        return self.status_code == 200 or (
            self.status_code == 304 and "Content-Type" not in self.headers
        )


class LeanContext(RequestContext):
    app: "LeanFlask"

    def match_request(self) -> None:
        """Remembers the routes that no part of the path is an argument of, which are few."""
        asked = self.request
        named = asked.method, asked.path
        known = self.app.matched.get(named)
        if known is not None:
            asked.url_rule, asked.view_args = known, {}
            return
        super().match_request()
        if asked.url_rule is not None and not asked.view_args:
            self.app.matched[named] = asked.url_rule


class LeanFlask(Flask):
    """For an application without coroutines, subdomains, or hosts that it would tell apart."""

    response_class = LeanResponse

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.matched: dict[tuple[str, str], Rule] = {}
        """Routes by method and path."""

    def request_context(self, environ: Any) -> RequestContext:
        return LeanContext(self, environ)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """As it is: Flask would ask of each hook each time whether it is a coroutine."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """As Flask makes it, but for the host, which is looked into only once."""
        if request is None:
            return super().create_url_adapter(None)
        header = request.environ.get("HTTP_HOST")
        request.host, server_name = _hosts(self.url_map, request.scheme, header, request.server)
        return MapAdapter(
            self.url_map,
            server_name,
            request.root_path,
            self.url_map.default_subdomain,
            request.scheme,
            request.path,
            request.method,
            request.environ.get("QUERY_STRING", ""),
        )


@lru_cache(HOSTS)
def _hosts(
    url_map: Map, scheme: str, header: str | None, server: tuple[str, int | None] | None
) -> tuple[str, str]:
    """What a request's `Host` says to itself, and to routing; raises `BadHost`."""
    host = get_host(scheme, header, server)
    return host, url_map.bind(host).server_name
