"""Clients that access, change and list, each one request at a time, and write down what they
saw."""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from threading import Event, Lock, Thread
from typing import Any
from uuid import UUID

import requests
from flask import Flask
from sqlalchemy import select

from reliability.faults.requests import Effect, ElevationRequest
from reliability.stress.people import People, gather
from webapp.db.scopes import TenantScope
from webapp.extensions import db
from webapp.identity.lookup import find_tenant_id
from webapp.rules.models import RuleRow

PATH = "/admin/api/rules"
ACCESSING, LISTING = 9, 3
"""Clients that are elevated, and those that list their own tenant's rules."""

RULES = 12
"""In each of the tenants that nobody changes anything in."""

TIMEOUT = 40.0
"""Seconds: more than any process is stopped for, and any statement may take."""

PAUSE = 0.08
RETRY = 0.1

Truth = frozenset[tuple[str, str, int]]
"""Id, name and version of each rule of a tenant."""


@dataclass(frozen=True)
class Call:
    label: str
    headers: Mapping[str, str]
    method: str = "GET"
    path: str = PATH
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    effect: Effect | None = None
    shows: str | None = None
    """The tenant whose rules the answer shows, all of them and nothing else."""


class Book:
    """What all clients have seen."""

    def __init__(self) -> None:
        self._asked: list[ElevationRequest] = []
        self._lock = Lock()
        self.accesses = 0

    def write(self, asked: ElevationRequest) -> None:
        with self._lock:
            self._asked.append(asked)
            self.accesses += asked.is_access and asked.is_acknowledged

    def read(self) -> list[ElevationRequest]:
        with self._lock:
            return list(self._asked)


class Load:
    """Tenants, people and clients of a run; `run` begins the ids of all their requests."""

    def __init__(self, app: Flask, url: str, run: str, seed: int) -> None:
        self.book = Book()
        self.run = run
        self._url = url
        self._over = Event()
        self._people = gather(app)
        *quiet, self._busy = self._people.slugs
        self._truth: dict[str, Truth] = {}
        for slug in quiet:
            self._stock(slug)
            self._truth[slug] = _truth(app, slug)
        mixes = [self._access] * ACCESSING + [self._list] * LISTING
        self._threads = [
            Thread(target=self._work, args=(number, choose, Random(f"{seed}.{number}")))  # noqa: S311 - to be repeatable, not secret
            for number, choose in enumerate(mixes)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int, choose: Callable[[Random], Call], dice: Random) -> None:
        with requests.Session() as session:
            session.trust_env = False  # no proxy stands between
            for count in itertools.count():
                if self._over.wait(dice.uniform(0, PAUSE)):
                    break
                asked = self._ask(session, choose(dice), f"{self.run}.{number}.{count}")
                self.book.write(asked)
                if asked.status is None:
                    time.sleep(RETRY)

    def _ask(self, session: requests.Session, call: Call, request_id: str) -> ElevationRequest:
        began = time.monotonic()
        try:
            response = session.request(
                call.method,
                self._url + call.path,
                params=dict(call.query),
                headers={"X-Request-ID": request_id, **call.headers},
                json=call.body,
                timeout=TIMEOUT,
            )
        except requests.RequestException:
            return ElevationRequest(request_id, call.effect, began, time.monotonic(), None)
        receipt = response.headers.get("Sightline-Audit")
        refused = response.status_code >= 400
        return ElevationRequest(
            request_id,
            call.effect,
            began,
            time.monotonic(),
            response.status_code,
            code=_code(response) if refused else None,
            receipts=tuple(receipt.split(", ")) if receipt else (),
            wrong=None if refused else self._wrong(call, response),
        )

    def _wrong(self, call: Call, response: requests.Response) -> str | None:
        if call.shows is None:
            return None
        shown = response.json()["items"]
        seen = {(rule["id"], rule["name"], rule["version"]) for rule in shown}
        if seen != self._truth[call.shows] or any(rule["tenant"] != call.shows for rule in shown):
            return f"{call.label} shows {response.text[:300]}"
        return None

    def _access(self, dice: Random) -> Call:
        """Mostly allowed, now and then denied, and some that change something."""
        acts = (self._everywhere, self._abroad, self._one, self._deny, self._add)
        [act] = dice.choices(acts, (6, 6, 3, 3, 1))
        return act(dice)

    def _everywhere(self, dice: Random) -> Call:
        account = self._people.everywhere(dice)
        query = {"limit": dice.choice(("10", "50"))}
        return Call("a list of all rules", account.headers, query=query, effect="allowed")

    def _abroad(self, dice: Random) -> Call:
        slug = dice.choice(sorted(self._truth))
        headers = _abroad(self._people, dice, slug)
        return Call(f"an access to {slug}", headers, query=ALL, effect="allowed", shows=slug)

    def _one(self, dice: Random) -> Call:
        slug = dice.choice(sorted(self._truth))
        rule_id, *_ = dice.choice(sorted(self._truth[slug]))
        headers = _abroad(self._people, dice, slug)
        return Call(f"a rule of {slug}", headers, path=f"{PATH}/{rule_id}", effect="allowed")

    def _deny(self, dice: Random) -> Call:
        return Call("a trespass", self._people.trespassing(dice).headers, effect="denied")

    def _add(self, dice: Random) -> Call:
        owner = self._people.everywhere(dice, "owner")
        body = _draft(f"{dice.getrandbits(64):016x}") | {"tenant": self._busy}
        return Call("a new rule", owner.headers, method="POST", body=body, effect="allowed")

    def _list(self, dice: Random) -> Call:
        slug = dice.choice(sorted(self._truth))
        account = dice.choice((self._people.members, self._people.admins))[slug]
        return Call(f"the list of {slug}", account.headers(), query=ALL, shows=slug)

    def _stock(self, slug: str) -> None:
        headers = self._people.in_charge(slug).headers
        for number in range(RULES):
            body = _draft(f"{slug} {number}")
            response = requests.post(self._url + PATH, headers=headers, json=body, timeout=TIMEOUT)
            response.raise_for_status()


ALL = {"limit": "200"}


def _abroad(people: People, dice: Random, slug: str) -> Mapping[str, str]:
    standpoint = people.everywhere(dice)
    return standpoint.account.headers(f"tenant:{slug}", standpoint.reason)


def _draft(name: str) -> dict[str, Any]:
    return {"name": name, "effect": "deny", "surfaces": ["billing.invoices.read"]}


def _code(response: requests.Response) -> str | None:
    try:
        code: str = response.json()["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code


def _truth(app: Flask, slug: str) -> Truth:
    """A tenant's rules as the database has them."""
    with app.app_context():
        tenant_id = _tenant_id(slug)
        with db.session.scoped(TenantScope(tenant_id)):
            rows = db.session.execute(select(RuleRow.id, RuleRow.name, RuleRow.version))
            return frozenset((str(row.id), row.name, row.version) for row in rows)


def _tenant_id(slug: str) -> UUID:
    tenant_id = find_tenant_id(slug)
    assert tenant_id is not None
    return tenant_id
