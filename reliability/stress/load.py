"""A run: many clients and one cache saboteur for some seconds, and then the comparison."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from threading import Event
from time import monotonic
from uuid import uuid4

import redis
from flask import Flask

from reliability.stress import exclusions, hangups, reads, refusals, writes
from reliability.stress.client import Client
from reliability.stress.comparison import answered, compare
from reliability.stress.counts import Counts
from reliability.stress.known_rules import KnownRules
from reliability.stress.ledger import read_once_drained
from reliability.stress.people import People, create_people
from reliability.stress.sabotage import CacheSaboteur
from tests.processes import Web
from webapp.caching.state import current_caching

CLIENTS = 16
CONTESTED = 2
"""Rules of each tenant that all clients change at once."""

Action = Callable[[Client], None]

MIX: Mapping[Action, int] = {
    reads.list_own_tenant: 40,
    reads.list_all_tenants: 16,
    reads.list_foreign_tenant: 12,
    reads.revalidate: 8,
    reads.read_one: 4,
    reads.read_all_pages: 2,
    reads.read_audits: 2,
    writes.write: 7,
    writes.change_contested: 2,
    exclusions.deny_and_allow: 2,
    refusals.access_without_permission: 6,
    refusals.send_refused: 4,
    hangups.hang_up: 5,
}


@dataclass(frozen=True)
class Installation:
    """The processes under load, an application that reads their database, and their servers."""

    app: Flask
    web: Web
    environment: Mapping[str, str]


def run(installation: Installation, seconds: float, seed: int) -> Counts:
    """Put the installation under load. The same seed makes every client send the same requests in
    the same order."""
    name, known, counts = f"stress-{uuid4().hex[:12]}", KnownRules(), Counts()
    names = [f"{name}.{number}" for number in range(CLIENTS)]
    people = create_people(installation.app, names)
    clients = [
        Client(installation.web.url, name, people, known, counts, _rng_for(seed, number))
        for number, name in enumerate(names)
    ]
    server = redis.Redis.from_url(installation.environment["REDIS_URL"])
    with installation.app.app_context():
        prefix = current_caching().store.prefix
    saboteur = CacheSaboteur(
        server, prefix, installation.environment, counts, _rng_for(seed, "saboteur")
    )
    try:
        _work(clients, people, saboteur, seconds)
        events = read_once_drained(installation.app, server, name)
    finally:
        server.close()
        for client in clients:
            client.close()
    compare(counts, answered(installation.web.log, name), events)
    return counts


def _work(clients: list[Client], people: People, saboteur: CacheSaboteur, seconds: float) -> None:
    for tenant in (*people.slugs, None):
        for _ in range(CONTESTED):
            writes.create(clients[0], tenant, contested=True)
    stopping, end = Event(), monotonic() + seconds

    def send_requests(client: Client) -> None:
        actions, weights = list(MIX), list(MIX.values())
        while monotonic() < end:
            [chosen] = client.rng.choices(actions, weights)
            chosen(client)

    with ThreadPoolExecutor(len(clients) + 1) as threads:
        sabotage_done = threads.submit(saboteur.work, stopping)
        working = [threads.submit(send_requests, client) for client in clients]
        try:
            for client in working:
                client.result()
        finally:
            stopping.set()
        sabotage_done.result()


def _rng_for(seed: int, client: object) -> Random:
    return Random(f"{seed}.{client}")  # noqa: S311 - it has to be repeatable, not secret
