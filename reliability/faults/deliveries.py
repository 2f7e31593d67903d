"""Delivering tasks more than once: copies of the queue's messages, mixed up, and old ones again."""

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
"""Seconds that something may take to be queued."""

Copies = deque[str | bytes]
"""Messages as they were once in the queue."""


def no_copies() -> Copies:
    return deque(maxlen=KEPT)


def double(installation: Installation, copies: Copies, dice: Random) -> None:
    """Put every message that waits into the queue a second time, all of them in another order."""
    deadline = monotonic() + QUEUED
    while not installation.broker.llen(QUEUE) and monotonic() < deadline:
        sleep(0.05)
    waiting = installation.broker.lrange(QUEUE, 0, -1)
    copies.extend(waiting)
    mixed = [_again(message) for message in waiting]
    dice.shuffle(mixed)
    if mixed:
        installation.broker.lpush(QUEUE, *mixed[::2])
        installation.broker.rpush(QUEUE, *(mixed[1::2] or mixed[:1]))
    installation.worker.resume()


def ensure(installation: Installation, copies: Copies, dice: Random) -> None:
    """Have some copies of deliveries at least."""
    while not copies:
        installation.worker.pause()
        double(installation, copies, dice)


def repeat(installation: Installation, copies: Copies, dice: Random) -> None:
    """Deliver again what was delivered, and mostly committed, a good while ago."""
    for message in dice.sample(list(copies), min(SOME, len(copies))):
        installation.broker.lpush(QUEUE, _again(message))


def _again(message: str | bytes) -> bytes:
    """The same task as a delivery of its own."""
    body = orjson.loads(message)
    body["properties"]["delivery_tag"] = str(uuid4())
    return orjson.dumps(body)
