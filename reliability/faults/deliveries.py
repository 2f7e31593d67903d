"""Delivering tasks more than once: copies of the queue's messages, mixed up, and old ones again."""

from collections import deque
from random import Random
from time import monotonic, sleep
from uuid import uuid4

import orjson

from reliability.faults.installation import Plant

QUEUE = "audit"
KEPT = 200
SOME = 20
QUEUED = 3.0
"""Seconds that something may take to be queued."""

Copies = deque[str | bytes]
"""Messages as they were once in the queue."""


def no_copies() -> Copies:
    return deque(maxlen=KEPT)


def double(plant: Plant, copies: Copies, dice: Random) -> None:
    """Put every message that waits into the queue a second time, all of them in another order."""
    deadline = monotonic() + QUEUED
    while not plant.broker.llen(QUEUE) and monotonic() < deadline:
        sleep(0.05)
    waiting = plant.broker.lrange(QUEUE, 0, -1)
    copies.extend(waiting)
    mixed = [_again(message) for message in waiting]
    dice.shuffle(mixed)
    if mixed:
        plant.broker.lpush(QUEUE, *mixed[::2])
        plant.broker.rpush(QUEUE, *(mixed[1::2] or mixed[:1]))
    plant.worker.resume()


def ensure(plant: Plant, copies: Copies, dice: Random) -> None:
    """Have some copies of deliveries at least."""
    while not copies:
        plant.worker.pause()
        double(plant, copies, dice)


def repeat(plant: Plant, copies: Copies, dice: Random) -> None:
    """Deliver again what was delivered, and mostly committed, a good while ago."""
    for message in dice.sample(list(copies), min(SOME, len(copies))):
        plant.broker.lpush(QUEUE, _again(message))


def _again(message: str | bytes) -> bytes:
    """The same task as a delivery of its own."""
    body = orjson.loads(message)
    body["properties"]["delivery_tag"] = str(uuid4())
    return orjson.dumps(body)
