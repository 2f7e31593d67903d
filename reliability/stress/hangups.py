"""Clients that hang up: before they have asked, while the answer is made, in the middle of it."""

import socket
import struct
from urllib.parse import urlencode, urlsplit

import orjson

from reliability.stress.client import PATH, TIMEOUT, Client
from reliability.stress.counts import Attempt
from reliability.stress.people import Effect, Standpoint
from reliability.stress.reads import ALL
from reliability.stress.writes import changes, draft

RESET = struct.pack("ii", 1, 0)
"""Linger for no time at all: closing sends RST, and what is in flight is lost."""


def hang_up(client: Client) -> None:
    """Send a request that leaves a record if it arrives, and do not stay for its answer."""
    kind = client.dice.random()
    if kind < 0.7:
        people = client.people
        place = client.dice.choice((people.everywhere, people.abroad, people.trespassing))
        standpoint = place(client.dice)
        path = f"{PATH}?{urlencode(ALL)}"
        _leave(client, standpoint, "admin.rules.list", "GET", path, standpoint.effect)
        return
    slug = client.dice.choice(client.people.slugs)
    standpoint = client.people.in_charge(slug)
    stand = client.known.contested(slug, client.dice)
    if kind < 0.85 or stand is None:
        body = orjson.dumps(draft(client, slug))
        _leave(client, standpoint, "admin.rules.create", "POST", PATH, "allowed", body)
    else:
        body = orjson.dumps(changes(client, stand))
        path = f"{PATH}/{stand.id}"
        headers = {"If-Match": stand.etag}
        _leave(client, standpoint, "admin.rules.update", "PATCH", path, "allowed", body, headers)


def _leave(
    client: Client,
    standpoint: Standpoint,
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
        **standpoint.headers,
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    request = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body
    client.tally.attempt(Attempt(request_id, standpoint.account.id, surface, effect, None))
    try:
        _talk(client, (str(address.hostname), address.port or 80), request)
    except OSError as error:
        client.fault("transport errors", f"{request_id}: {error!r}")


def _talk(client: Client, address: tuple[str, int], request: bytes) -> None:
    dice = client.dice
    with socket.create_connection(address, TIMEOUT) as connection:
        if dice.random() < 0.1:
            connection.sendall(request[: dice.randrange(1, len(request))])
            return
        connection.sendall(request)
        if dice.random() < 0.5:
            connection.recv(dice.randrange(1, 2000))
        if dice.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
