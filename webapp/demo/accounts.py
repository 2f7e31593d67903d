"""The demo's tenants and accounts, named for what they are."""

from dataclasses import dataclass

from sqlalchemy import select

from webapp.demo.drafts import CUSTOMERS
from webapp.directory import service
from webapp.extensions import db
from webapp.identity.models import PrincipalRow, Tenant
from webapp.identity.principal import PlatformRole, TenantRole


def email_of(name: str) -> str:
    return f"{name}@sightline.example"


@dataclass(frozen=True)
class Account:
    name: str
    platform_role: PlatformRole | None = None
    membership: tuple[str, TenantRole] | None = None
    """The tenant's slug, and the role in it."""

    @property
    def email(self) -> str:
        return email_of(self.name)


ACCOUNTS = (
    Account("acme-admin", membership=("acme", "admin")),
    Account("acme-member", membership=("acme", "member")),
    Account("globex-admin", membership=("globex", "admin")),
    Account("initech-admin", membership=("initech", "admin")),
    Account("support", "support"),
    Account("engineer", "engineer"),
    Account("auditor", "auditor"),
    Account("owner", "owner"),
)


def may_seed() -> bool:
    """Whether the database has nothing but what an interrupted seed has left."""
    slugs = set(db.session.scalars(select(Tenant.slug)))
    return slugs <= CUSTOMERS.keys() and not _present()


def is_seeded() -> bool:
    return len(_present()) == len(ACCOUNTS)


def add_tenants() -> None:
    there = set(db.session.scalars(select(Tenant.slug)))
    for slug, customer in CUSTOMERS.items():
        if slug not in there:
            service.create_tenant(slug, customer.name)


def add_accounts() -> None:
    for account in ACCOUNTS:
        roles = [account.platform_role] if account.platform_role else []
        service.create_user(account.email, roles)
        if account.membership:
            service.set_membership(account.email, *account.membership)


def mint_tokens() -> dict[str, str]:
    """Make a token for each account. Those of the platform's people have a second factor."""
    return {
        a.name: service.create_token(a.email, "demo", mfa=a.platform_role is not None).secret
        for a in ACCOUNTS
    }


def _present() -> list[str]:
    """The accounts that exist. They are made last and together: without any, a seed is due."""
    emails = [account.email for account in ACCOUNTS]
    return list(
        db.session.scalars(select(PrincipalRow.email).where(PrincipalRow.email.in_(emails)))
    )
