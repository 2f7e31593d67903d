"""What the web's login can change of identity: what the credential that it proves lets it, only."""

from collections.abc import Iterator
from hashlib import sha256

import pytest
from flask import Flask
from psycopg2.errors import InsufficientPrivilege
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from tests.factories import Account, MadeTenant, add_account, add_tenant
from tests.isolation.logins import connected
from webapp.db.roles import ADMINISTRATION_ROLE, LOGINS
from webapp.identity.tokens import digest

SET = text("select set_config('sightline.' || :name, :value, true)")

CHANGES = {
    "join": "insert into memberships (tenant_id, principal_id, role)"
    " values (:tenant, :stranger, 'admin')",
    "promote": "update memberships set role = 'admin' where principal_id = :member",
    "throw out": "select nullif(end_members_in_scope(array[cast(:member as uuid)]), 0)",
    "make a user": "select add_user_in_scope(gen_random_uuid(), gen_random_uuid() || '@x')",
    "mint": "select mint_token_in_scope(gen_random_uuid(), :member, 'mine', sha256('mine'),"
    " now() + interval '1 day')",
    "revoke": "select revoke_token_in_scope(:token)",
    "lock the tenant": "select id from tenants where id = :tenant for update",
}
"""What a tenant's admin may do, in the tenant."""
OF_OWNERS = {
    "make a tenant": "insert into tenants (id, slug, name) values (gen_random_uuid(), 'made', 'x')",
    "rename a tenant": "update tenants set name = 'taken' where id = :tenant",
    "throw everybody out": "select end_members_in_scope(null)",
    "end a tenant": "update tenants set ended_at = now() where id = :tenant",
    "mint for a service": "select mint_token_in_scope(gen_random_uuid(), :service, 'mine',"
    " sha256('mine'), now() + interval '1 day')",
    "bind": "select bind_token_in_scope(:services_token, '{*}', null, true, true)",
}


class Place:
    """A tenant with its people, one who is in none, and a service."""

    def __init__(self, app: Flask) -> None:
        self.tenant: MadeTenant = add_tenant(app)
        self.admin = add_account(app, member_of={self.tenant.slug: "admin"})
        self.member = add_account(app, member_of={self.tenant.slug: "member"})
        self.stranger = add_account(app)
        self.service = add_account(app, "service")

    @property
    def names(self) -> dict[str, object]:
        return {
            "tenant": self.tenant.id,
            "member": self.member.id,
            "stranger": self.stranger.id,
            "service": self.service.id,
            "services_token": self.service.token_id,
            "token": self.member.token_id,
        }


@pytest.fixture
def place(app: Flask) -> Place:
    return Place(app)


@pytest.fixture
def web(environment: dict[str, str]) -> Iterator[Connection]:
    """A transaction of the web's login, in the role that administers."""
    with connected(environment, "web") as connection:
        connection.execute(text(f"set role {ADMINISTRATION_ROLE}"))
        yield connection


def enter(web: Connection, scope: MadeTenant | None, by: Account | None) -> None:
    """Set what policies read: a scope, and the credential of somebody."""
    tenant_id, access = ("", "access") if scope is None else (str(scope.id), "")
    token, proof = ("", "") if by is None else (str(by.token_id), proof_of(web, by))
    settings = {"tenant_id": tenant_id, "access": access, "token": token, "proof": proof}
    for name, value in settings.items():
        web.execute(SET, {"name": name, "value": value})


def proof_of(web: Connection, by: Account) -> str:
    transaction_id = web.scalar(text("select pg_current_xact_id()::text"))
    return sha256(digest(by.token) + transaction_id.encode()).hexdigest()


def changed(web: Connection, statement: str, place: Place) -> bool:
    """Whether a statement is let through, and finds anything."""
    named = {name: value for name, value in place.names.items() if f":{name}" in statement}
    try:
        with web.begin_nested():
            result = web.execute(text(statement), named)
            return (result.scalar() is not None) if result.returns_rows else result.rowcount > 0
    except ProgrammingError as error:
        if not isinstance(error.orig, InsufficientPrivilege):
            raise
        return False


@pytest.mark.parametrize(
    "statement", [*CHANGES.values(), *OF_OWNERS.values()], ids=[*CHANGES, *OF_OWNERS]
)
def test_password_of_the_web_alone_changes_no_identity(
    app: Flask, web: Connection, place: Place, statement: str
) -> None:
    elsewhere = add_account(app, member_of={add_tenant(app).slug: "admin"})
    for scope in (place.tenant, None):
        for by in (None, place.member, place.service, elsewhere, add_account(app, "auditor")):
            enter(web, scope, by)
            assert not changed(web, statement, place)


@pytest.mark.parametrize("statement", OF_OWNERS.values(), ids=OF_OWNERS)
def test_admin_changes_nothing_of_the_platform(
    web: Connection, place: Place, statement: str
) -> None:
    for scope in (place.tenant, None):
        enter(web, scope, place.admin)
        assert not changed(web, statement, place)


@pytest.mark.parametrize("name", CHANGES)
def test_admin_changes_the_own_tenant_and_no_other(
    app: Flask, web: Connection, place: Place, name: str
) -> None:
    other = Place(app)
    enter(web, other.tenant, place.admin)
    assert not changed(web, CHANGES[name], other)
    enter(web, place.tenant, place.admin)
    if ":member" in CHANGES[name] or ":token" in CHANGES[name]:
        assert not changed(web, CHANGES[name], other)
    # The token was made by a command: it is the platform's.
    assert changed(web, CHANGES[name], place) == (name != "revoke")


ENDS = {
    "token revoked": ("sightline_directory", "select revoke_tokens(array[cast(:token as uuid)])"),
    "token expired": (None, "update api_tokens set expires_at = now() where id = :token"),
    "user ended": (None, "update principals set ended_at = now() where id = :id"),
    "role ended": (
        "sightline_directory",
        "update memberships set role = 'member' where principal_id = :id",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_credential_that_has_ended_proves_nothing(
    environment: dict[str, str], web: Connection, owner_engine: Engine, place: Place, end: str
) -> None:
    role, statement = ENDS[end]
    bound = {"token": place.admin.token_id, "id": place.admin.id}
    named = {name: value for name, value in bound.items() if f":{name}" in statement}
    opened = connected(environment, "commands") if role else owner_engine.connect()
    with opened as connection:
        if role:
            connection.execute(text(f"set local role {role}"))
        connection.execute(text(statement), named)
        connection.commit()
    enter(web, place.tenant, place.admin)
    assert not changed(web, CHANGES["throw out"], place)


def test_proof_is_good_in_its_transaction_only(web: Connection, place: Place) -> None:
    """Who has the web's password sees the statements of its other connections."""
    seen = proof_of(web, place.admin)
    web.commit()
    enter(web, place.tenant, place.admin)
    assert changed(web, CHANGES["throw out"], place)
    web.execute(SET, {"name": "proof", "value": seen})
    assert not changed(web, CHANGES["join"], place)


@pytest.mark.parametrize("role", LOGINS["commands"])
def test_no_role_reads_the_digest_of_a_token(environment: dict[str, str], role: str) -> None:
    """It is what proves who administers: with the web's password nobody may have it."""
    with connected(environment, "commands") as connection:
        connection.execute(text(f"set role {role}"))
        for statement in (
            "select token_hash from api_tokens",
            "select id from api_tokens where token_hash > ''",
        ):
            with (
                pytest.raises(ProgrammingError, match="permission denied"),
                connection.begin_nested(),
            ):
                connection.execute(text(statement))
