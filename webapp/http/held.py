"""Answers that the server holds until they may leave, while its threads answer other requests.

A server that can hold an answer offers it to the application as the socket in the WSGI
environment. Other servers offer nothing, and the request's thread waits.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol
from wsgiref.types import WSGIEnvironment

from flask import Response, request

SOCKET = "gunicorn.socket"
"""The key of the client's socket in the WSGI environment."""

MAX_LENGTH = 2**18
"""Bytes of an answer's body that a server holds; a longer one keeps its thread waiting."""


class HeldAnswer(Protocol):
    """Why an answer is held, and what leaves in the end."""

    expires: float
    """When it is decided at the latest, as `monotonic` counts."""

    def when_ready(self, call: Callable[[], None]) -> None:
        """Have `call` called once, on any thread, when the answer can be decided."""

    def decide(self) -> bytes | None:
        """Return what leaves in place of the answer, as a whole HTTP message that ends the
        connection; `None` if the answer leaves. To be called once."""


class Holder(Protocol):
    """The server's side of one request."""

    def can_hold(self) -> bool:
        """Whether the server has room for one more answer."""

    def hold(self, answer: HeldAnswer) -> None:
        """Keep back what the application answers to this request until `answer` is decided."""


def holder_for(response: Response) -> Holder | None:
    """The server, if it can hold this answer to the current request."""
    offered: Any = request.environ.get(SOCKET)
    if not hasattr(offered, "can_hold") or response.is_streamed:
        return None
    length = response.calculate_content_length()
    if length is None or length > MAX_LENGTH or not offered.can_hold():
        return None
    holder: Holder = offered
    return holder


def message_of(response: Response, environ: WSGIEnvironment) -> bytes:
    """A whole answer as bytes, after which the connection ends."""
    response.headers["Connection"] = "close"
    body, status, headers = response.get_wsgi_response(environ)
    return last_message(status, headers, b"".join(body))


def last_message(status: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """An HTTP message; `status` is the code and its phrase."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
