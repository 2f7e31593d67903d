"""The people who send requests, of three tenants and of the platform, and their scopes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

from flask import Flask

from tests.factories import Account, add_account, add_tenant
from webapp.identity.principal import STAFF_ROLES, PlatformRole

TENANTS = 3
NO_SUCH_TENANT = "no-such-tenant"

Effect = Literal["allowed", "denied", "approval_required"]


@dataclass(frozen=True)
class Caller:
    """Somebody who asks for a scope, for a reason."""

    account: Account
    scope: str | None
    reason: str | None
    tenant: str | None
    """The slug of the only tenant whose rules the scope shows; `None` if it shows all tenants'."""
    effect: Effect | None
    """The effect that the ledger must have of an access; `None` if the access leaves no event."""

    @property
    def headers(self) -> dict[str, str]:
        return self.account.headers(self.scope, self.reason)


@dataclass(frozen=True)
class PrivateTenant:
    """A tenant that only one client writes to."""

    slug: str
    admin: Account


@dataclass(frozen=True)
class People:
    slugs: tuple[str, ...]
    admins: Mapping[str, Account]
    members: Mapping[str, Account]
    member_of_two: Account
    """A member of the first two tenants, who must name the tenant in each request."""
    platform: Mapping[PlatformRole, Account]
    private_tenants: Mapping[str, PrivateTenant]
    """By the client's name."""

    def in_own_tenant(self, rng: Random) -> Caller:
        slug = rng.choice(self.slugs)
        named = f"tenant:{slug}"
        if slug in self.slugs[:2] and rng.random() < 0.2:
            return Caller(self.member_of_two, named, None, slug, None)
        account = rng.choice((self.admins, self.members))[slug]
        return Caller(account, rng.choice((None, None, named)), None, slug, None)

    def admin_of(self, slug: str) -> Caller:
        return Caller(self.admins[slug], None, None, slug, None)

    def private_tenant(self, client: str) -> PrivateTenant:
        return self.private_tenants[client]

    def in_all_tenants(self, rng: Random, *roles: PlatformRole) -> Caller:
        """Somebody of the platform, in one of these roles, who accesses all tenants."""
        account = self.platform[rng.choice(roles or STAFF_ROLES)]
        return Caller(account, "global", _reason(rng), None, "allowed")

    def in_foreign_tenant(self, rng: Random) -> Caller:
        """Somebody of the platform who accesses one tenant."""
        account, slug = self.platform[rng.choice(STAFF_ROLES)], rng.choice(self.slugs)
        return Caller(account, f"tenant:{slug}", _reason(rng), slug, "allowed")

    def without_permission(self, rng: Random) -> Caller:
        """Somebody of a tenant who asks for a scope that is denied whatever the reason."""
        home = rng.choice(self.slugs)
        account = rng.choice((self.admins, self.members))[home]
        target = rng.choice(
            [
                "global",
                *(f"tenant:{slug}" for slug in (*self.slugs, NO_SUCH_TENANT) if slug != home),
            ]
        )
        return Caller(account, target, _reason(rng), None, "denied")


def create_people(app: Flask, clients: Iterable[str] = ()) -> People:
    """Create all people and tenants anew."""
    private_tenants = {client: add_tenant(app).slug for client in clients}
    slugs = tuple(add_tenant(app).slug for _ in range(TENANTS))
    return People(
        slugs=slugs,
        admins={slug: add_account(app, member_of={slug: "admin"}) for slug in slugs},
        members={slug: add_account(app, member_of={slug: "member"}) for slug in slugs},
        member_of_two=add_account(app, member_of={slugs[0]: "member", slugs[1]: "member"}),
        platform={role: add_account(app, role) for role in STAFF_ROLES},
        private_tenants={
            client: PrivateTenant(slug, add_account(app, member_of={slug: "admin"}))
            for client, slug in private_tenants.items()
        },
    )


def _reason(rng: Random) -> str:
    code = rng.choice(("incident", "support_case", "fraud", "maintenance"))
    return f'{code};ticket="T-{rng.randrange(100)}"'
