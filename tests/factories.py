"""New tenants and accounts for tests: no two tests share one."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID, uuid4

from flask import Flask

from webapp.db.scopes import DirectoryScope
from webapp.directory import service
from webapp.directory.service import NewBindings
from webapp.extensions import db
from webapp.identity.lookup import find_tenant_id
from webapp.identity.principal import PlatformRole, TenantRole

INCIDENT = 'incident;ticket="INC-1"'
EVERYTHING = NewBindings(("*",), None, break_glass=True, reports_mfa=True)
"""What the tokens of services are bound to, unless a test says otherwise."""


@dataclass(frozen=True)
class MadeTenant:
    id: UUID
    slug: str


@dataclass(frozen=True)
class Account:
    id: UUID
    email: str
    token_id: UUID
    token: str

    def headers(self, scope: str | None = None, reason: str | None = None) -> dict[str, str]:
        """The request headers of this account, for a scope and a reason."""
        asked = {"Sightline-Scope": scope, "Sightline-Reason": reason}
        sent = {name: value for name, value in asked.items() if value is not None}
        return {"Authorization": f"Bearer {self.token}", **sent}


def add_tenant(app: Flask, slug: str | None = None) -> MadeTenant:
    slug = slug or f"t-{uuid4().hex}"
    with app.app_context(), db.scoped(DirectoryScope()):
        made = MadeTenant(service.create_tenant(slug, f"Tenant {slug}").id, slug)
        db.session.commit()
    return made


def tenant_named(app: Flask, slug: str) -> MadeTenant:
    """The tenant with a fixed slug, made by the first test that asks for it."""
    with app.app_context():
        found = find_tenant_id(slug)
    return add_tenant(app, slug) if found is None else MadeTenant(found, slug)


def add_account(
    app: Flask,
    *platform_roles: PlatformRole,
    member_of: Mapping[str, TenantRole] | None = None,
    mfa: bool = False,
    bindings: NewBindings = EVERYTHING,
) -> Account:
    """Make an account with platform roles, and with roles in tenants, by slug.

    `mfa` says whether a second factor was shown; `bindings`, what a service may ask.
    """
    email = f"{uuid4().hex}@example.org"
    with app.app_context(), db.scoped(DirectoryScope()):
        user_id = service.create_user(email, platform_roles).id
        for slug, role in (member_of or {}).items():
            service.set_membership(email, slug, role)
        token = service.create_token(email, "test", mfa=mfa)
        if "service" in platform_roles:
            service.bind_token(token.id, bindings)
        db.session.commit()
    return Account(user_id, email, token.id, token.secret)
