"""One client: sends calls over connections that it keeps, and holds every answer against them."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import requests

from reliability.stress import checks
from reliability.stress.counts import Attempt, Counts, Fault
from reliability.stress.known import Floor, Known
from reliability.stress.people import Effect, People, Standpoint
from webapp.rules.rule import Rule, RulePage

PATH = "/admin/api/rules"
CONNECTIONS = 2
"""To reach several web processes, since a connection stays with one."""

TIMEOUT = 20


@dataclass(frozen=True)
class Call:
    """A request, and what has to come of it."""

    standpoint: Standpoint
    surface: str = "admin.rules.list"
    method: str = "GET"
    path: str = PATH
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    statuses: tuple[int, ...] = (200,)
    effect: Effect | None = None
    """What the ledger has to say of it; `None` where it leaves no record."""


@dataclass
class Client:
    url: str
    name: str
    people: People
    known: Known
    tally: Counts
    dice: Random

    def __post_init__(self) -> None:
        self._sessions = [requests.Session() for _ in range(CONNECTIONS)]
        for session in self._sessions:
            session.trust_env = False  # no proxy stands between
        self._numbers = itertools.count()
        self._names = itertools.count()

    def close(self) -> None:
        for session in self._sessions:
            session.close()

    def request_id(self) -> str:
        return f"{self.name}.{next(self._numbers)}"

    def new_name(self, tenant: str | None) -> str:
        word = self.dice.choice(("nights", "weekends", "fraud", "access", "ops"))
        # Unique without being in order, so that new rules come anywhere in a list.
        number = f"{self.dice.randrange(10**6):06}"
        return f"{tenant or checks.PLATFORM} {word} {number} {self.name}-{next(self._names)}"

    def send(self, call: Call) -> requests.Response | None:
        """The answer, where there is one of a status that was expected and no error."""
        request_id = self.request_id()
        try:
            response = self.dice.choice(self._sessions).request(
                call.method,
                self.url + call.path,
                params=dict(call.query),
                headers={"X-Request-ID": request_id, **call.standpoint.headers, **call.headers},
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
        elif response.headers.get("X-Request-ID") != request_id:
            self.fault("wrong answers", f"{request_id}: answered as another request")
        elif response.status_code >= 400 and not checks.is_problem(response):
            self.fault("wrong answers", f"{request_id}: no problem but {response.text[:300]}")
        else:
            return response
        return None

    def page(self, call: Call, floor: Floor) -> RulePage | None:
        """The page that was answered, checked, `floor` having been taken before."""
        response = self.send(call)
        if response is None:
            return None
        return self.read_page(call, response.content, floor)

    def read_page(self, call: Call, body: bytes, floor: Floor) -> RulePage | None:
        """The page that the last answer stands for, checked."""
        try:
            page = checks.load_page(body)
        except checks.WrongType as error:
            self.fault("wrong types", str(error))
            return None
        self._attempt.rows = len(page.items)
        self._faults(
            "wrong tenants",
            checks.strangers(page, call.standpoint, frozenset(self.people.slugs)),
        )
        self._faults("stale", checks.outdated(page, floor))
        self._faults("wrong answers", checks.misfits(page, call.query))
        for rule in page.items:
            self.check_content(rule)
        return page

    def rule(self, response: requests.Response) -> Rule | None:
        """The rule that was answered, checked."""
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
        if ours and checks.torn(rule):
            self.fault("wrong answers", f"version {rule.version} says {rule.description!r}")

    def check_complete(self, pages: list[RulePage], tenant: str | None, floor: Floor) -> None:
        """All pages of a list of a tenant's rules, without a filter beside."""
        ids = [rule.id for page in pages for rule in page.items]
        if len(ids) != len(set(ids)):
            self.fault("wrong answers", f"a rule of {tenant} is listed twice")
        self._faults("stale", checks.missing(set(ids), tenant, floor, self.known))

    def fault(self, fault: Fault, example: str) -> None:
        self.tally.fault(fault, example)

    def _faults(self, fault: Fault, examples: Iterator[str]) -> None:
        for example in examples:
            self.fault(fault, example)

    def _note(self, call: Call, request_id: str, response: requests.Response | None) -> None:
        receipt = response.headers.get("Sightline-Audit") if response is not None else None
        self._attempt = Attempt(
            request_id=request_id,
            actor_id=call.standpoint.account.id,
            surface=call.surface,
            effect=call.effect,
            status=None if response is None else response.status_code,
            receipts=tuple(receipt.split(", ")) if receipt else (),
            seconds=0.0 if response is None else response.elapsed.total_seconds(),
        )
        self.tally.attempt(self._attempt)
