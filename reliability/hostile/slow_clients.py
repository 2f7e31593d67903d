"""Clients that open connections and then take their time, from one address and from several."""

import select
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from time import sleep
from urllib.parse import urlsplit

from reliability.faults.installation import WEB_CONCURRENCY
from reliability.hostile.attack import Attack, Scene, addresses
from webapp.server.waiting import ADDRESS_MAX

HEAD = b"GET /admin/api/rules HTTP/1.1\r\nHost: sightline.example\r\n"
BODY = b"POST /admin/api/rules HTTP/1.1\r\nHost: sightline.example\r\nContent-Length: 300\r\n\r\n{"
ASSET = b"GET /openapi.json HTTP/1.1\r\nHost: sightline.example\r\n\r\n"

ONE, SEVERAL = 700, 4
"""Connections of one address; addresses."""
EACH = 200
"""Connections of each of several addresses."""
CAP = ADDRESS_MAX * int(WEB_CONCURRENCY)
"""Connections of one address that all web processes together keep."""
SETTLES = 20.0
"""Seconds within which surplus connections end. A silent one would have 30."""


def _connect(scene: Scene, source: str, count: int, kept: ExitStack) -> list[socket.socket]:
    place = urlsplit(scene.installation.url)
    clients = []
    for _ in range(count):
        client = kept.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.bind((source, 0))
        with suppress(OSError):
            client.connect((place.hostname, place.port))
            scene.did["connections"] += 1
            clients.append(client)
    return clients


def _send(clients: Sequence[socket.socket], data: bytes) -> None:
    for client in clients:
        with suppress(OSError):  # the server has ended it
            client.sendall(data)


def _open(clients: Sequence[socket.socket]) -> int:
    """Count those that the server has neither answered nor ended."""
    asked = select.poll()
    for client in clients:
        asked.register(client, select.POLLIN)
    return len(clients) - len(asked.poll(0))


def _hold(*sent: bytes) -> Callable[[Scene], None]:
    """Open connections from one address and then from others, again and again."""

    def run(scene: Scene) -> None:
        for _ in scene.meanwhile():
            with ExitStack() as kept:
                one = _connect(scene, "127.0.0.2", ONE, kept)
                several = [
                    client
                    for source in addresses(SEVERAL, first=3)
                    for client in _connect(scene, source, EACH, kept)
                ]
                for number, data in enumerate(sent):
                    _send([*one, *several][number :: len(sent)], data)
                sleep(scene.seconds / 3)
                scene.did["ended by the server"] += len(one) - _open(one)

    return run


def _say_nothing(scene: Scene) -> None:
    """Open connections without a word: an address has so many, and not one more."""
    for _ in scene.meanwhile():
        with ExitStack() as kept:
            clients = _connect(scene, "127.0.0.2", ONE, kept)
            within = scene.wait_for(lambda: _open(clients) <= CAP, SETTLES)  # noqa: B023 - called here
            scene.expect(within, f"one address has {_open(clients)} connections, not {CAP}")
            scene.did["ended by the server"] += len(clients) - _open(clients)
            sleep(scene.seconds / 3)


def _drip(scene: Scene) -> None:
    """Send a head byte by byte."""
    with ExitStack() as kept:
        clients = _connect(scene, "127.0.0.2", CAP // 2, kept)
        _send(clients, HEAD + b"X: ")
        for _ in scene.meanwhile():
            _send(clients, b"x")
            sleep(0.5)
        scene.did["ended by the server"] += len(clients) - _open(clients)


ATTACKS = (
    Attack("slow clients: half heads and half bodies", _hold(HEAD, BODY)),
    Attack("slow clients: heads byte by byte", _drip),
    Attack("slow clients: answers are not read", _hold(ASSET * 8)),
    Attack("slow clients: connections without a word", _say_nothing),
)
