"""A run: many clients at once and one saboteur for some seconds, then the comparison."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from threading import Event
from time import monotonic
from uuid import uuid4

import redis
from flask import Flask

from reliability.stress import hangups, narrowing, reads, refusals, writes
from reliability.stress.client import Client
from reliability.stress.comparison import answered, reckon
from reliability.stress.counts import Counts
from reliability.stress.known import Known
from reliability.stress.ledger import drained
from reliability.stress.people import People, gather
from reliability.stress.sabotage import Saboteur
from tests.processes import Web
from webapp.caching.state import current_caching

CLIENTS = 16
CONTESTED = 2
"""Rules of each tenant that everybody changes at once."""

Act = Callable[[Client], None]

MIX: Mapping[Act, int] = {
    reads.list_at_home: 40,
    reads.list_everywhere: 16,
    reads.list_abroad: 12,
    reads.revalidate: 8,
    reads.read_one: 4,
    reads.walk: 2,
    reads.read_audits: 2,
    writes.write: 7,
    writes.contend: 2,
    narrowing.change_ones_mind: 2,
    refusals.trespass: 6,
    refusals.refuse: 4,
    hangups.hang_up: 5,
}


@dataclass(frozen=True)
class Stage:
    """The processes under load: the application to read their database, and their servers."""

    app: Flask
    web: Web
    environment: Mapping[str, str]


def run(stage: Stage, seconds: float, seed: int) -> Counts:
    """Put the stage under load; the same seed has every client ask in the same order."""
    name, known, tally = f"stress-{uuid4().hex[:12]}", Known(), Counts()
    names = [f"{name}.{number}" for number in range(CLIENTS)]
    people = gather(stage.app, names)
    clients = [
        Client(stage.web.url, name, people, known, tally, _dice(seed, number))
        for number, name in enumerate(names)
    ]
    server = redis.Redis.from_url(stage.environment["REDIS_URL"])
    with stage.app.app_context():
        prefix = current_caching().store.prefix
    saboteur = Saboteur(server, prefix, stage.environment, tally, _dice(seed, "saboteur"))
    try:
        _work(clients, people, saboteur, seconds)
        events = drained(stage.app, server, name)
    finally:
        server.close()
        for client in clients:
            client.close()
    reckon(tally, answered(stage.web.log, name), events)
    return tally


def _work(clients: list[Client], people: People, saboteur: Saboteur, seconds: float) -> None:
    for tenant in (*people.slugs, None):
        for _ in range(CONTESTED):
            writes.stock(clients[0], tenant, contested=True)
    over, end = Event(), monotonic() + seconds

    def act(client: Client) -> None:
        acts, weights = list(MIX), list(MIX.values())
        while monotonic() < end:
            [chosen] = client.dice.choices(acts, weights)
            chosen(client)

    with ThreadPoolExecutor(len(clients) + 1) as threads:
        harm = threads.submit(saboteur.work, over)
        working = [threads.submit(act, client) for client in clients]
        try:
            for client in working:
                client.result()
        finally:
            over.set()
        harm.result()


def _dice(seed: int, thrower: object) -> Random:
    return Random(f"{seed}.{thrower}")  # noqa: S311 - it has to be repeatable, not secret
