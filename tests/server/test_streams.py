"""Answers that are made while they are sent: they are never far ahead of their client."""

import threading
from collections.abc import Iterator
from socket import socket, socketpair
from unittest import mock

import pytest

from webapp.server import connection
from webapp.server.connection import AHEAD, BufferedSocket

PART = b"x" * 2**16


@pytest.fixture
def ends() -> Iterator[tuple[BufferedSocket, socket]]:
    server, client = socketpair()
    with server, client:
        server.setblocking(False)
        yield BufferedSocket(server, lambda: True), client


def send_much(buffered: BufferedSocket) -> None:
    for _ in range(100 * AHEAD // len(PART)):
        buffered.sendall(PART)


def test_answer_in_parts_waits_for_its_client(ends: tuple[BufferedSocket, socket]) -> None:
    buffered, client = ends
    parts, received = 20 * AHEAD // len(PART), 0

    def read() -> None:
        nonlocal received
        while received < parts * len(PART):
            received += len(client.recv(2**16))

    reader = threading.Thread(target=read)
    reader.start()
    most = 0
    for _ in range(parts):
        buffered.sendall(PART)
        most = max(most, len(buffered.unsent))
    while buffered.unsent:
        buffered.flush()
    reader.join()
    assert received == parts * len(PART)
    assert most <= AHEAD + len(PART)


def test_client_that_takes_nothing_ends_the_answer(ends: tuple[BufferedSocket, socket]) -> None:
    buffered, _ = ends
    with mock.patch.object(connection, "PATIENCE", 0.05), pytest.raises(BrokenPipeError):
        send_much(buffered)
    assert len(buffered.unsent) <= AHEAD + len(PART)


def test_client_that_has_left_ends_the_answer(ends: tuple[BufferedSocket, socket]) -> None:
    buffered, client = ends
    client.close()
    with pytest.raises(OSError, match="pipe|reset"):
        send_much(buffered)


def test_whole_answer_comes_at_once(ends: tuple[BufferedSocket, socket]) -> None:
    buffered, _ = ends
    buffered.sendall(b"head")
    buffered.sendall(b"x" * 10 * AHEAD)
    assert len(buffered.unsent) > 5 * AHEAD
