"""Deliver tasks more than once: copy messages in the queue, reorder them, send old ones again."""

from collections import deque
from random import Random
from time import monotonic, sleep
from uuid import uuid4

import orjson

from reliability.faults.installation import Installation

QUEUE = "audit"
KEPT = 200
SOME = 20
QUEUED = 3.0
"""Seconds to wait for a message in the queue."""

Copies = deque[str | bytes]
"""Messages that were in the queue at some time."""


def empty_copies() -> Copies:
    return deque(maxlen=KEPT)


def duplicate(installation: Installation, copies: Copies, rng: Random) -> None:
    """Put every waiting message into the queue a second time, in another order."""
    deadline = monotonic() + QUEUED
    while not installation.broker.llen(QUEUE) and monotonic() < deadline:
        sleep(0.05)
    waiting = installation.broker.lrange(QUEUE, 0, -1)
    copies.extend(waiting)
    mixed = [_again(message) for message in waiting]
    rng.shuffle(mixed)
    if mixed:
        installation.broker.lpush(QUEUE, *mixed[::2])
        installation.broker.rpush(QUEUE, *(mixed[1::2] or mixed[:1]))
    installation.worker.resume()


def ensure_copies(installation: Installation, copies: Copies, rng: Random) -> None:
    """Make sure that there are copies of some deliveries."""
    while not copies:
        installation.worker.pause()
        duplicate(installation, copies, rng)


def redeliver(installation: Installation, copies: Copies, rng: Random) -> None:
    """Deliver old messages again; most of them were committed long ago."""
    for message in rng.sample(list(copies), min(SOME, len(copies))):
        installation.broker.lpush(QUEUE, _again(message))


def _again(message: str | bytes) -> bytes:
    """The same task as a new delivery."""
    body = orjson.loads(message)
    body["properties"]["delivery_tag"] = str(uuid4())
    return orjson.dumps(body)
