"""An attack as a value, and the scene in which it happens."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from random import Random
from time import monotonic, sleep
from uuid import UUID

from flask import Flask

from reliability.faults.history import Harm
from reliability.faults.installation import Installation
from reliability.hostile.remote import Barrage, Impact, fire
from reliability.stress.people import People
from reliability.verification import flask
from tests.factories import Account, MadeTenant, add_account, add_tenant

EXAMPLES = 8
POLL = 0.1


@dataclass(frozen=True)
class Attackers:
    """People with credentials of their own, who mean no good."""

    tenant: MadeTenant
    admin: Account
    """The tenant's admin."""
    members: tuple[Account, ...]
    auditor: Account
    """Of the platform."""
    engineer: Account


def create_attackers(app: Flask) -> Attackers:
    tenant = add_tenant(app)
    return Attackers(
        tenant,
        admin=add_account(app, member_of={tenant.slug: "admin"}),
        members=tuple(add_account(app, member_of={tenant.slug: "member"}) for _ in range(6)),
        auditor=add_account(app, "auditor"),
        engineer=add_account(app, "engineer"),
    )


@dataclass
class Scene:
    """What an attack works with, and what it notes."""

    installation: Installation
    victims: People
    attackers: Attackers
    rng: Random
    seconds: float
    """How long an attack goes on."""
    elsewhere: ProcessPoolExecutor
    """A process for clients that send as fast as they can: in this one they would delay the
    measured ones."""
    did: Counter[str] = field(default_factory=Counter)
    """What the attack did, and what it was answered."""
    breaches: list[str] = field(default_factory=list)
    """What it was let do, and must not have been."""
    swapped: set[str] = field(default_factory=set)
    """Events that were put into the ledger in the place of true ones."""
    tampered: dict[UUID, list[UUID]] = field(default_factory=dict)
    """Journals whose files were changed, with their events."""

    def breach(self, text: str) -> None:
        self.did["breaches"] += 1
        if len(self.breaches) < EXAMPLES:
            self.breaches.append(text)

    def expect(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001 - as for `assert`
        if not holds:
            self.breach(otherwise)

    def expect_alarm(self, check: str) -> None:
        """Expect that `flask doctor` finds that one of its checks fails."""
        found, _ = flask(self.installation.environment, "doctor")
        failed = [row["check"] for row in found["items"] if not row["ok"]]
        self.expect(check in failed, f"doctor does not say that not: {check}")

    def meanwhile(self) -> Iterator[None]:
        """Go on until the attack's time is over."""
        until = monotonic() + self.seconds
        while monotonic() < until:
            yield

    def wait_for(self, condition: Callable[[], bool], within: float) -> bool:
        """Whether the condition comes true in time."""
        until = monotonic() + within
        while not condition():
            if monotonic() > until:
                return False
            sleep(POLL)
        return True

    def fire(self, *barrages: Barrage) -> Impact:
        """Fire from another process, count the answers, and note those that must not come."""
        impact = self.elsewhere.submit(fire, barrages).result()
        for status, count in sorted(impact.statuses.items()):
            self.did[f"answers {status}" if status else "unanswered"] += count
        for example in impact.unexpected:
            self.breach(example)
        return impact


@dataclass(frozen=True)
class Attack:
    name: str
    run: Callable[[Scene], object]
    harms: frozenset[Harm] = frozenset()
    """What others may see of it."""
    prepare: Callable[[Scene], object] = lambda scene: None
    """What has to be there before: it is not measured."""
    repair: Callable[[Scene], object] = lambda scene: None
    """What an operator does afterwards. Most attacks need nothing."""
    stops_web: bool = False


def addresses(count: int, first: int = 2) -> Sequence[str]:
    """Addresses of attackers. Everybody else is 127.0.0.1."""
    return [f"127.0.0.{number}" for number in range(first, first + count)]
