"""A client that sends requests over connections that it keeps, and checks every answer."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import requests

from reliability.stress import checks
from reliability.stress.counts import Attempt, Counts, Fault
from reliability.stress.known_rules import Floor, KnownRules
from reliability.stress.people import Caller, Effect, People
from webapp.rules.rule import Rule, RulePage

PATH = "/admin/api/rules"
CONNECTIONS = 2
"""Connections of one client, to reach several web processes: a connection stays with one."""

TIMEOUT = 20


@dataclass(frozen=True)
class Call:
    """A request, and the answer that it must have."""

    caller: Caller
    surface: str = "admin.rules.list"
    method: str = "GET"
    path: str = PATH
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    statuses: tuple[int, ...] = (200,)
    effect: Effect | None = None
    """The effect that the ledger must have; `None` for a request that leaves no event."""


@dataclass
class Client:
    url: str
    name: str
    people: People
    known: KnownRules
    counts: Counts
    rng: Random

    def __post_init__(self) -> None:
        self._sessions = [requests.Session() for _ in range(CONNECTIONS)]
        for session in self._sessions:
            session.trust_env = False  # no proxy is between
        self._numbers = itertools.count()
        self._names = itertools.count()

    def close(self) -> None:
        for session in self._sessions:
            session.close()

    def request_id(self) -> str:
        return f"{self.name}.{next(self._numbers)}"

    def new_name(self, tenant: str | None) -> str:
        word = self.rng.choice(("nights", "weekends", "fraud", "access", "ops"))
        # Unique without being in order, so that new rules come anywhere in a list.
        number = f"{self.rng.randrange(10**6):06}"
        return f"{tenant or checks.PLATFORM} {word} {number} {self.name}-{next(self._names)}"

    def send(self, call: Call) -> requests.Response | None:
        """Send a request; return its answer if the status is an expected one and nothing is
        wrong."""
        request_id = self.request_id()
        try:
            response = self.rng.choice(self._sessions).request(
                call.method,
                self.url + call.path,
                params=dict(call.query),
                headers={"X-Request-ID": request_id, **call.caller.headers, **call.headers},
                json=call.body,
                timeout=TIMEOUT,
            )
        except requests.RequestException as error:
            self.fault("transport errors", f"{request_id}: {error!r}")
            self._note(call, request_id, None)
            return None
        self._note(call, request_id, response)
        if response.status_code >= 500:
            self.fault("5xx", f"{request_id}: {response.status_code} {response.text}")
        elif response.status_code not in call.statuses:
            answered = f"{call.method} {call.path} {dict(call.query)}: {response.status_code}"
            self.fault("wrong answers", f"{request_id}: {answered} {response.text[:300]}")
        elif response.status_code >= 400 and not checks.is_problem(response):
            self.fault("wrong answers", f"{request_id}: no problem but {response.text[:300]}")
        else:
            return response
        return None

    def page(self, call: Call, floor: Floor) -> RulePage | None:
        """Send a request and return its page, checked; `floor` was taken before."""
        response = self.send(call)
        if response is None:
            return None
        return self.read_page(call, response.content, floor)

    def read_page(self, call: Call, body: bytes, floor: Floor) -> RulePage | None:
        """Load the page that the last answer stands for, and check it."""
        try:
            page = checks.load_page(body)
        except checks.WrongType as error:
            self.fault("wrong types", str(error))
            return None
        self._attempt.rows = len(page.items)
        self._faults(
            "wrong tenants",
            checks.foreign_rules(page, call.caller, frozenset(self.people.slugs)),
        )
        self._faults("stale", checks.outdated_rules(page, floor))
        self._faults("wrong answers", checks.unfit_rules(page, call.query))
        for rule in page.items:
            self.check_content(rule)
        return page

    def rule(self, response: requests.Response) -> Rule | None:
        """Load the rule of an answer, and check it."""
        try:
            rule = checks.load_rule(response.content)
        except checks.WrongType as error:
            self.fault("wrong types", str(error))
            return None
        if response.headers.get("ETag") != f'"{rule.id.hex}.{rule.version}"':
            self.fault("wrong answers", f"{rule.name!r} has the ETag of another version")
        self.check_content(rule)
        return rule

    def check_content(self, rule: Rule) -> None:
        ours = rule.tenant in self.people.slugs or rule.name.startswith(checks.PLATFORM)
        if ours and checks.has_content_of_another_version(rule):
            self.fault("wrong answers", f"version {rule.version} says {rule.description!r}")

    def check_complete(self, pages: list[RulePage], tenant: str | None, floor: Floor) -> None:
        """Check all pages of an unfiltered list of a tenant's rules: each rule once, and none
        missing."""
        ids = [rule.id for page in pages for rule in page.items]
        if len(ids) != len(set(ids)):
            self.fault("wrong answers", f"a rule of {tenant} is listed twice")
        self._faults("stale", checks.missing_rules(set(ids), tenant, floor, self.known))

    def fault(self, fault: Fault, example: str) -> None:
        self.counts.fault(fault, example)

    def _faults(self, fault: Fault, examples: Iterator[str]) -> None:
        for example in examples:
            self.fault(fault, example)

    def _note(self, call: Call, request_id: str, response: requests.Response | None) -> None:
        receipt = response.headers.get("Sightline-Audit") if response is not None else None
        self._attempt = Attempt(
            request_id=request_id,
            actor_id=call.caller.account.id,
            surface=call.surface,
            effect=call.effect,
            status=None if response is None else response.status_code,
            receipts=tuple(receipt.split(", ")) if receipt else (),
            seconds=0.0 if response is None else response.elapsed.total_seconds(),
        )
        self.counts.attempt(self._attempt)
