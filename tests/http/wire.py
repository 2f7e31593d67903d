"""A socket client, for requests that no client library sends."""

import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.processes import Web
from webapp.http.errors import ProblemSchema

CRLF = b"\r\n"
HOST = b"Host: sightline.example\r\nConnection: close\r\n"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def send(web: Web, request: bytes) -> Answer:
    place = urlsplit(web.url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    return parse(received)


def parse(received: bytes) -> Answer:
    head, _, body = received.partition(CRLF * 2)
    line, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return Answer(int(line.split()[1]), {name.lower(): value for name, value in pairs}, body)


def problem(answer: Answer) -> dict[str, Any]:
    """Check that an answer is a problem without gunicorn's own text; returns its body."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["content-length"]) == len(answer.body)
    body: dict[str, Any] = json.loads(answer.body)
    assert ProblemSchema().validate(body) == {}
    assert body["status"] == answer.status
    assert body["request_id"] == answer.headers["x-request-id"]
    for word in ("limit request", "Invalid", "Error", "secret"):
        assert word not in answer.body.decode()
    return body
