"""Who takes part, and where they stand: three tenants' people, and the platform's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

from flask import Flask

from tests.factories import Account, add_account, add_tenant
from webapp.identity.principal import STAFF_ROLES, PlatformRole

TENANTS = 3
NOWHERE = "no-such-tenant"

Effect = Literal["allowed", "denied", "approval_required"]


@dataclass(frozen=True)
class Standpoint:
    """Somebody who asks for a scope."""

    account: Account
    scope: str | None
    reason: str | None
    tenant: str | None
    """The slug of the only tenant whose rules are seen from here; `None` where all are."""
    effect: Effect | None
    """What the ledger has to say of an access from here; `None` where it is none of its
    business."""

    @property
    def headers(self) -> dict[str, str]:
        return self.account.headers(self.scope, self.reason)


@dataclass(frozen=True)
class Host:
    """A tenant of one client's alone."""

    slug: str
    admin: Account


@dataclass(frozen=True)
class People:
    slugs: tuple[str, ...]
    admins: Mapping[str, Account]
    members: Mapping[str, Account]
    traveller: Account
    """A member of the first two tenants, who has to say which one is meant."""
    platform: Mapping[PlatformRole, Account]
    hosts: Mapping[str, Host]
    """By the client's name."""

    def at_home(self, dice: Random) -> Standpoint:
        slug = dice.choice(self.slugs)
        named = f"tenant:{slug}"
        if slug in self.slugs[:2] and dice.random() < 0.2:
            return Standpoint(self.traveller, named, None, slug, None)
        account = dice.choice((self.admins, self.members))[slug]
        return Standpoint(account, dice.choice((None, None, named)), None, slug, None)

    def in_charge(self, slug: str) -> Standpoint:
        return Standpoint(self.admins[slug], None, None, slug, None)

    def host(self, client: str) -> Host:
        return self.hosts[client]

    def everywhere(self, dice: Random, *roles: PlatformRole) -> Standpoint:
        """One of the platform's people, of these roles, accesses all there is."""
        account = self.platform[dice.choice(roles or STAFF_ROLES)]
        return Standpoint(account, "global", _reason(dice), None, "allowed")

    def abroad(self, dice: Random) -> Standpoint:
        """One of the platform's people accesses one tenant."""
        account, slug = self.platform[dice.choice(STAFF_ROLES)], dice.choice(self.slugs)
        return Standpoint(account, f"tenant:{slug}", _reason(dice), slug, "allowed")

    def trespassing(self, dice: Random) -> Standpoint:
        """Where a tenant's people may not be, whatever reason they give."""
        home = dice.choice(self.slugs)
        account = dice.choice((self.admins, self.members))[home]
        target = dice.choice(
            ["global", *(f"tenant:{slug}" for slug in (*self.slugs, NOWHERE) if slug != home)]
        )
        return Standpoint(account, target, _reason(dice), None, "denied")


def gather(app: Flask, clients: Iterable[str] = ()) -> People:
    """All of them, new."""
    hosts = {client: add_tenant(app).slug for client in clients}
    slugs = tuple(add_tenant(app).slug for _ in range(TENANTS))
    return People(
        slugs=slugs,
        admins={slug: add_account(app, member_of={slug: "admin"}) for slug in slugs},
        members={slug: add_account(app, member_of={slug: "member"}) for slug in slugs},
        traveller=add_account(app, member_of={slugs[0]: "member", slugs[1]: "member"}),
        platform={role: add_account(app, role) for role in STAFF_ROLES},
        hosts={
            client: Host(slug, add_account(app, member_of={slug: "admin"}))
            for client, slug in hosts.items()
        },
    )


def _reason(dice: Random) -> str:
    code = dice.choice(("incident", "support_case", "fraud", "maintenance"))
    return f'{code};ticket="T-{dice.randrange(100)}"'
