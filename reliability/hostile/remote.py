"""Clients that send requests as fast as they can, in a process of their own."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from itertools import cycle
from urllib.parse import urlsplit

TIMEOUT = 60.0
EXAMPLES = 5
REST = 0.05
"""Seconds after a refused connection."""


@dataclass(frozen=True)
class Shot:
    """A request, and the statuses that it may have. 0: none, since the server hung up."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"
    body: bytes | None = None
    statuses: frozenset[int] = frozenset({200, 429})
    limited: bool = True
    """Whether a good answer has to tell a rate limit."""


@dataclass(frozen=True)
class Barrage:
    url: str
    shots: Sequence[Shot]
    sources: Sequence[str]
    """Addresses to send from: each client has one."""
    clients: int
    seconds: float


@dataclass
class Impact:
    statuses: Counter[int] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    """Answers that must not come."""
    seconds: float = 0.0

    def add(self, other: "Impact") -> None:
        self.statuses += other.statuses
        self.unexpected += other.unexpected[:EXAMPLES]


def fire(barrages: Sequence[Barrage]) -> Impact:
    """Fire all of them at once."""
    total = Impact()
    began = time.monotonic()
    with ThreadPoolExecutor(sum(barrage.clients for barrage in barrages)) as threads:
        impacts = [
            threads.submit(_fire, barrage, number)
            for barrage in barrages
            for number in range(barrage.clients)
        ]
        for impact in impacts:
            total.add(impact.result())
    total.seconds = time.monotonic() - began
    return total


def _fire(barrage: Barrage, number: int) -> Impact:
    place, impact = urlsplit(barrage.url), Impact()
    source = barrage.sources[number % len(barrage.sources)]
    assert place.hostname is not None
    connection = HTTPConnection(place.hostname, place.port, TIMEOUT, source_address=(source, 0))
    shots = cycle([*barrage.shots[number:], *barrage.shots[:number]])
    until = time.monotonic() + barrage.seconds
    while time.monotonic() < until:
        shot = next(shots)
        try:
            connection.request(shot.method, shot.path, shot.body, dict(shot.headers))
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException):
            connection.close()
            impact.statuses[0] += 1
            _judge(impact, shot, 0, "no answer")
            time.sleep(REST)
            continue
        impact.statuses[response.status] += 1
        _judge(impact, shot, response.status, repr(body[:200]))
        if shot.limited and response.status < 300 and response.headers["RateLimit"] is None:
            _note(impact, f"{shot.method} {shot.path[:80]} tells no rate limit")
    connection.close()
    return impact


def _judge(impact: Impact, shot: Shot, status: int, body: str) -> None:
    if status not in shot.statuses:
        _note(impact, f"{shot.method} {shot.path[:80]} is answered {status} {body}")


def _note(impact: Impact, text: str) -> None:
    if len(impact.unexpected) < EXAMPLES:
        impact.unexpected.append(text)
