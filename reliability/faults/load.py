"""Clients that read, change and list rules, one request at a time, and note what they saw."""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event, Lock, Thread
from typing import Any
from uuid import UUID

import requests
from flask import Flask
from sqlalchemy import select

from reliability.faults.history import Effect, SentRequest
from reliability.stress.people import People, create_people
from webapp.db.scopes import TenantScope
from webapp.extensions import db
from webapp.identity.lookup import find_tenant_id
from webapp.rules.models import RuleRow

PATH = "/admin/api/rules"
ELEVATED, PLAIN = 9, 3
"""Clients that are elevated, and clients that list their own tenant's rules."""

RULES = 12
"""Rules in each of the tenants that nobody changes."""

TIMEOUT = 40.0
"""Seconds; longer than any process is stopped, and than any statement may take."""

PAUSE = 0.08
"""The most seconds between an answer and the client's next request."""

RETRY = 0.1

FRONT = "front_unavailable"
"""The code by which the proxy in front of the product says that it has no answer of the product's,
in deploy/haproxy.cfg."""

RuleVersions = frozenset[tuple[str, str, int]]
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
    """The tenant whose rules the answer shows: all of them, and nothing else."""


class RequestLog:
    """The answers that all clients have seen."""

    def __init__(self) -> None:
        self._requests: list[SentRequest] = []
        self._lock = Lock()
        self.accesses = 0

    def write(self, sent: SentRequest) -> None:
        with self._lock:
            self._requests.append(sent)
            self.accesses += sent.is_access and sent.is_acknowledged

    def read(self) -> list[SentRequest]:
        with self._lock:
            return list(self._requests)


class Load:
    """The tenants, people and clients of a run. The ids of all their requests begin with `run`."""

    def __init__(
        self,
        app: Flask,
        url: str,
        run: str,
        seed: int,
        *,
        pause: float = PAUSE,
        certificate: Path | None = None,
    ) -> None:
        """`certificate`: the one of an HTTPS `url`."""
        self.log = RequestLog()
        self.run = run
        self._url = url
        self._pause = pause
        self._verify = True if certificate is None else str(certificate)
        self._stopping = Event()
        self.people = create_people(app)
        self._expected: dict[str, RuleVersions] = {}
        for slug in self.people.slugs:
            self._create_rules(slug)
            self._expected[slug] = _rules_in_database(app, slug)
        mixes = [self._access] * ELEVATED + [self._list_own_tenant] * PLAIN
        self._threads = [
            Thread(target=self._work, args=(number, choose, Random(f"{seed}.{number}")))  # noqa: S311 - to be repeatable, not secret
            for number, choose in enumerate(mixes)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int, choose: Callable[[Random], Call], rng: Random) -> None:
        with requests.Session() as session:
            session.trust_env = False  # no proxy is between
            for count in itertools.count():
                if self._stopping.wait(rng.uniform(0, self._pause)):
                    break
                sent = self._ask(session, choose(rng), f"{self.run}.{number}.{count}")
                self.log.write(sent)
                if sent.status is None:
                    time.sleep(RETRY)

    def _ask(self, session: requests.Session, call: Call, request_id: str) -> SentRequest:
        began = time.monotonic()
        try:
            response = session.request(
                call.method,
                self._url + call.path,
                params=dict(call.query),
                headers={"X-Request-ID": request_id, **call.headers},
                json=call.body,
                timeout=TIMEOUT,
                verify=self._verify,
            )
        except requests.RequestException:
            return SentRequest(request_id, call.effect, began, time.monotonic(), None)
        receipt = response.headers.get("Sightline-Audit")
        refused = response.status_code >= 400
        code = _code(response) if refused else None
        if code == FRONT:
            return SentRequest(request_id, call.effect, began, time.monotonic(), None)
        return SentRequest(
            request_id,
            call.effect,
            began,
            time.monotonic(),
            response.status_code,
            code=code,
            receipts=tuple(receipt.split(", ")) if receipt else (),
            wrong=None if refused else self._wrong(call, response),
        )

    def _wrong(self, call: Call, response: requests.Response) -> str | None:
        if call.shows is None:
            return None
        shown = response.json()["items"]
        seen = {(rule["id"], rule["name"], rule["version"]) for rule in shown}
        if seen != self._expected[call.shows] or any(
            rule["tenant"] != call.shows for rule in shown
        ):
            return f"{call.label} shows {response.text[:300]}"
        return None

    def _access(self, rng: Random) -> Call:
        """An elevated request: mostly allowed, sometimes denied, sometimes a change."""
        requests_to_make = (
            self._list_all_tenants,
            self._list_foreign_tenant,
            self._read_one,
            self._access_without_permission,
            self._create_rule,
        )
        [make] = rng.choices(requests_to_make, (6, 6, 3, 3, 1))
        return make(rng)

    def _list_all_tenants(self, rng: Random) -> Call:
        account = self.people.in_all_tenants(rng)
        query = {"limit": rng.choice(("10", "50"))}
        return Call("a list of all rules", account.headers, query=query, effect="allowed")

    def _list_foreign_tenant(self, rng: Random) -> Call:
        slug = rng.choice(sorted(self._expected))
        headers = _headers_at(self.people, rng, slug)
        return Call(f"an access to {slug}", headers, query=ALL, effect="allowed", shows=slug)

    def _read_one(self, rng: Random) -> Call:
        slug = rng.choice(sorted(self._expected))
        rule_id, *_ = rng.choice(sorted(self._expected[slug]))
        headers = _headers_at(self.people, rng, slug)
        return Call(f"a rule of {slug}", headers, path=f"{PATH}/{rule_id}", effect="allowed")

    def _access_without_permission(self, rng: Random) -> Call:
        return Call(
            "an access without permission",
            self.people.without_permission(rng).headers,
            effect="denied",
        )

    def _create_rule(self, rng: Random) -> Call:
        """A rule of the platform, which may have as many as it likes."""
        owner = self.people.in_all_tenants(rng, "owner")
        body = _draft(f"{rng.getrandbits(64):016x}")
        return Call("a new rule", owner.headers, method="POST", body=body, effect="allowed")

    def _list_own_tenant(self, rng: Random) -> Call:
        slug = rng.choice(sorted(self._expected))
        account = rng.choice((self.people.members, self.people.admins))[slug]
        return Call(f"the list of {slug}", account.headers(), query=ALL, shows=slug)

    def _create_rules(self, slug: str) -> None:
        headers = self.people.admin_of(slug).headers
        for number in range(RULES):
            body = _draft(f"{slug} {number}")
            response = requests.post(
                self._url + PATH, headers=headers, json=body, timeout=TIMEOUT, verify=self._verify
            )
            response.raise_for_status()


ALL = {"limit": "200"}


def _headers_at(people: People, rng: Random, slug: str) -> Mapping[str, str]:
    caller = people.in_all_tenants(rng)
    return caller.account.headers(f"tenant:{slug}", caller.reason)


def _draft(name: str) -> dict[str, Any]:
    return {"name": name, "effect": "deny", "surfaces": ["billing.invoices.read"]}


def _code(response: requests.Response) -> str | None:
    try:
        code: str = response.json()["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code


def _rules_in_database(app: Flask, slug: str) -> RuleVersions:
    """A tenant's rules, as the database has them."""
    with app.app_context():
        tenant_id = _tenant_id(slug)
        with db.scoped(TenantScope(tenant_id)):
            rows = db.session.execute(select(RuleRow.id, RuleRow.name, RuleRow.version))
            return frozenset((str(row.id), row.name, row.version) for row in rows)


def _tenant_id(slug: str) -> UUID:
    tenant_id = find_tenant_id(slug)
    assert tenant_id is not None
    return tenant_id
