"""Flask, without what it does in each request for applications that this is none of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, cast

from flask import Flask, Request, Response
from flask.ctx import RequestContext
from flask.sansio.scaffold import _sentinel
from flask.sessions import NullSession, SessionInterface
from flask.signals import (
    appcontext_tearing_down,
    request_finished,
    request_started,
    request_tearing_down,
)
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, MapAdapter, Rule
from werkzeug.sansio.utils import get_host

from webapp.context import current_context, current_request

HOSTS = 256
"""Spellings of the `Host` header whose meaning is remembered."""

_NO_SESSION = NullSession()


def add_header(headers: Headers, name: str, value: str) -> None:
    """Add a header of ours: whether there is a line break in it is not read once more."""
    headers._list.append((name, value))


class LeanRequest(Request):
    def close(self) -> None:
        if "files" in self.__dict__:
            super().close()


class LeanResponse(Response):
    @classmethod
    def ready(cls, body: bytes, headers: Sequence[tuple[str, str]]) -> "LeanResponse":
        """200, as `LeanResponse(body, headers=headers, direct_passthrough=True)` is, of headers of
        ours, `Content-Type` among them."""
        response = cls._made("200 OK", 200, headers)
        response.response = [body]
        add_header(response.headers, "Content-Length", str(len(body)))
        return response

    @classmethod
    def unchanged(cls, headers: Sequence[tuple[str, str]]) -> "LeanResponse":
        """304, of headers of ours."""
        response = cls._made("304 NOT MODIFIED", 304, headers)
        response.response = []
        return response

    @classmethod
    def _made(cls, status: str, code: int, headers: Sequence[tuple[str, str]]) -> "LeanResponse":
        response = cls.__new__(cls)
        response.headers = Headers()
        response.headers._list += headers
        response._status, response._status_code = status, code
        response.direct_passthrough = True
        response._on_close = []
        return response

    def get_wsgi_headers(self, environ: Any) -> Headers:
        """As they are, where the body passes through as it is: werkzeug would copy them one by one,
        to mend what is wrong only with redirects, and with bodies that must not be."""
        if self.direct_passthrough and self._is_sound():
            return self.headers
        return super().get_wsgi_headers(environ)

    def _is_sound(self) -> bool:
        return self._status_code == 200 or (
            self._status_code == 304 and "Content-Type" not in self.headers
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


class NoSessions(SessionInterface):
    def open_session(self, app: Flask, request: Request) -> NullSession:
        return _NO_SESSION


@dataclass(frozen=True)
class Hooks:
    """What is called around a view, each in the order in which it is called."""

    values: Sequence[Callable[..., Any]]
    before: Sequence[Callable[..., Any]]
    after: Sequence[Callable[..., Any]]
    teardown: Sequence[Callable[..., Any]]


class LeanFlask(Flask):
    """For an application without coroutines, sessions, subdomains, or hosts that it would tell
    apart."""

    request_class = LeanRequest
    response_class = LeanResponse
    session_interface = NoSessions()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.matched: dict[tuple[str, str], Rule] = {}
        """Routes by method and path."""
        self._hooks: dict[str | None, Hooks] = {}
        """By endpoint."""

    def request_context(self, environ: Any) -> RequestContext:
        return LeanContext(self, environ)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """As it is: Flask would ask of each hook each time whether it is a coroutine."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """As Flask makes it, but for the host, which is read only once."""
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

    # From here on as Flask has it, but for signals that nobody hears, and for hooks, which it would
    # gather anew, three times in each request.

    def full_dispatch_request(self) -> Response:
        self._got_first_request = True
        try:
            if request_started.receivers:
                request_started.send(self, _async_wrapper=self.ensure_sync)
            answer: ResponseReturnValue | HTTPException | None = self.preprocess_request()
            if answer is None:
                answer = self.dispatch_request()
        except Exception as error:
            answer = self.handle_user_exception(error)
        return self.finalize_request(answer)

    def preprocess_request(self) -> ResponseReturnValue | None:
        asked = current_request()
        hooks = self._hooks_of(asked)
        for access in hooks.values:
            access(asked.endpoint, asked.view_args)
        for ask in hooks.before:
            answer = ask()
            if answer is not None:
                return cast(ResponseReturnValue, answer)
        return None

    def dispatch_request(self) -> ResponseReturnValue:
        asked = current_request()
        if asked.url_rule is None or asked.view_args is None or asked.method == "OPTIONS":
            return super().dispatch_request()
        view = self.view_functions[asked.url_rule.endpoint]
        return cast(ResponseReturnValue, view(**asked.view_args))

    def finalize_request(
        self, rv: ResponseReturnValue | HTTPException, from_error_handler: bool = False
    ) -> Response:
        if not isinstance(rv, LeanResponse) or from_error_handler or request_finished.receivers:
            return super().finalize_request(rv, from_error_handler)
        return self.process_response(rv)

    def process_response(self, response: Response) -> Response:
        context = current_context()
        once: Sequence[Callable[..., Any]] = context._after_request_functions
        for change in (*once, *self._hooks_of(context.request).after):
            response = change(response)
        kept = context._session
        if kept is not None and not self.session_interface.is_null_session(kept):
            self.session_interface.save_session(self, kept, response)
        return response

    def do_teardown_request(self, exc: Any = _sentinel) -> None:
        if exc is _sentinel or request_tearing_down.receivers:
            super().do_teardown_request(exc)
            return
        for end in self._hooks_of(current_request()).teardown:
            end(exc)

    def do_teardown_appcontext(self, exc: Any = _sentinel) -> None:
        if exc is _sentinel or appcontext_tearing_down.receivers:
            super().do_teardown_appcontext(exc)
            return
        for end in reversed(self.teardown_appcontext_funcs):
            end(exc)

    def _hooks_of(self, asked: Request) -> Hooks:
        endpoint = asked.url_rule.endpoint if asked.url_rule is not None else None
        known = self._hooks.get(endpoint)
        if known is None:
            known = self._gather_hooks(asked.blueprints)
            if self._got_first_request:  # from then on Flask takes no more of them
                self._hooks[endpoint] = known
        return known

    def _gather_hooks(self, blueprints: Sequence[str]) -> Hooks:
        inward = (None, *reversed(blueprints))
        return Hooks(
            values=_found(self.url_value_preprocessors, inward),
            before=_found(self.before_request_funcs, inward),
            after=_found(self.after_request_funcs, inward)[::-1],
            teardown=_found(self.teardown_request_funcs, inward)[::-1],
        )


def _found(
    hooks: Mapping[str | None, Sequence[Callable[..., Any]]], names: Sequence[str | None]
) -> Sequence[Callable[..., Any]]:
    return tuple(chain.from_iterable(hooks.get(name, ()) for name in names))


@lru_cache(HOSTS)
def _hosts(
    url_map: Map, scheme: str, header: str | None, server: tuple[str, int | None] | None
) -> tuple[str, str]:
    """What a request's `Host` says to itself, and to routing; raises `BadHost`."""
    host = get_host(scheme, header, server)
    return host, url_map.bind(host).server_name
