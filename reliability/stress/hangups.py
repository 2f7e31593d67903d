"""Clients that hang up: within their request, before the answer, or within the answer."""

import socket
import struct
from urllib.parse import urlencode, urlsplit

import orjson

from reliability.stress.client import PATH, TIMEOUT, Client
from reliability.stress.counts import Attempt
from reliability.stress.people import Caller, Effect
from reliability.stress.reads import ALL
from reliability.stress.writes import changes, draft

RESET = struct.pack("ii", 1, 0)
"""Linger for zero seconds: closing sends RST, and drops what is in flight."""


def hang_up(client: Client) -> None:
    """Send a request that leaves an event if it arrives, and do not wait for its answer."""
    kind = client.rng.random()
    if kind < 0.7:
        people = client.people
        place = client.rng.choice(
            (people.in_all_tenants, people.in_foreign_tenant, people.without_permission)
        )
        caller = place(client.rng)
        path = f"{PATH}?{urlencode(ALL)}"
        _leave(client, caller, "admin.rules.list", "GET", path, caller.effect)
        return
    slug = client.rng.choice(client.people.slugs)
    caller = client.people.admin_of(slug)
    known = client.known.contested(slug, client.rng)
    if kind < 0.85 or known is None:
        body = orjson.dumps(draft(client, slug))
        _leave(client, caller, "admin.rules.create", "POST", PATH, "allowed", body)
    else:
        body = orjson.dumps(changes(client, known))
        path = f"{PATH}/{known.id}"
        headers = {"If-Match": known.etag}
        _leave(client, caller, "admin.rules.update", "PATCH", path, "allowed", body, headers)


def _leave(
    client: Client,
    caller: Caller,
    surface: str,
    method: str,
    path: str,
    effect: Effect | None,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> None:
    request_id = client.request_id()
    address = urlsplit(client.url)
    sent = {
        "Host": address.netloc,
        "X-Request-ID": request_id,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **caller.headers,
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    request = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body
    client.counts.attempt(Attempt(request_id, caller.account.id, surface, effect, None))
    try:
        _talk(client, (str(address.hostname), address.port or 80), request)
    except OSError as error:
        client.fault("transport errors", f"{request_id}: {error!r}")


def _talk(client: Client, address: tuple[str, int], request: bytes) -> None:
    rng = client.rng
    with socket.create_connection(address, TIMEOUT) as connection:
        if rng.random() < 0.1:
            connection.sendall(request[: rng.randrange(1, len(request))])
            return
        connection.sendall(request)
        if rng.random() < 0.5:
            connection.recv(rng.randrange(1, 2000))
        if rng.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
