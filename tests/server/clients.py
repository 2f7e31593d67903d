"""Clients that take their time, on sockets of their own."""

import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

PATIENCE = 120
HEAD = b"GET /healthz HTTP/1.1\r\nHost: sightline.example\r\n"


def connect(url: str, *, receive_buffer: int | None = None) -> socket.socket:
    place = urlsplit(url)
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(PATIENCE)
    client.connect((place.hostname, place.port))
    return client


@contextmanager
def holding(url: str, count: int, sent: bytes) -> Iterator[Sequence[socket.socket]]:
    """Open connections that have all sent the same, and nothing more."""
    clients = [connect(url) for _ in range(count)]
    try:
        for client in clients:
            client.sendall(sent)
        yield clients
    finally:
        for client in clients:
            client.close()


def ended(clients: Sequence[socket.socket]) -> list[socket.socket]:
    """Those that the server has answered, or closed."""
    asked = select.poll()
    for client in clients:
        asked.register(client, select.POLLIN)
    ready = {fd for fd, _ in asked.poll(0)}
    return [client for client in clients if client.fileno() in ready]


def read_all(client: socket.socket) -> bytes:
    """All that the server sends until it closes."""
    return b"".join(iter(lambda: client.recv(65536), b""))
