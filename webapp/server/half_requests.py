"""What `flask doctor` tries: whether slow clients stop the web processes behind an address."""

from contextlib import ExitStack
from http import HTTPStatus
from socket import create_connection, socket
from ssl import create_default_context
from urllib.parse import SplitResult, urlsplit

import urllib3

COUNT = 32
"""Half requests; the web processes of a host have fewer threads, unless told otherwise."""

LIMIT = 2.0
"""Seconds for each connection, and for the answer to the whole request."""

_PORTS = {"http": 80, "https": 443}


class NotReached(Exception):
    """No connection can be made to the address."""


def is_answered_meanwhile(url: str, count: int = COUNT) -> bool:
    """Whether a request is answered while `count` others are half sent. Raises `NotReached`."""
    place = urlsplit(url)
    half = f"GET /healthz HTTP/1.1\r\nHost: {place.hostname}\r\n".encode()
    with ExitStack() as held:
        for _ in range(count):
            connection = held.enter_context(_connect(place))
            connection.sendall(half)
        try:
            answer = urllib3.request("GET", f"{url}/healthz", timeout=LIMIT, retries=False)
        except urllib3.exceptions.HTTPError:
            return False
    return answer.status == HTTPStatus.OK


def _connect(place: SplitResult) -> socket:
    host, port = str(place.hostname), place.port or _PORTS[place.scheme]
    try:
        plain = create_connection((host, port), LIMIT)
        if place.scheme == "https":
            return create_default_context().wrap_socket(plain, server_hostname=host)
    except OSError as error:
        raise NotReached from error
    return plain
