"""What somebody can do who has the password of a process's login, and runs any SQL with it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from tests.factories import Account, add_account
from tests.isolation.logins import connected
from webapp.db.roles import (
    ADMINISTRATION_ROLE,
    DIRECTORY_ROLE,
    LEDGER_ROLE,
    LOGINS,
    MAINTENANCE_ROLE,
    Process,
)

SERVERS: tuple[Process, ...] = ("web", "worker")
ROLES = [
    (login, role)
    for login in SERVERS
    for role in (None, *LOGINS[login])
    if role != ADMINISTRATION_ROLE
]
"""Each login of a server as itself, and as each role that it may become, but for the one that
administers with somebody's credential: `test_administration` tries that one."""

OF_IDENTITY = {
    "mint a token": "insert into api_tokens (id, principal_id, name, token_hash)"
    " select gen_random_uuid(), id, 'mine', sha256('mine') from principals",
    "mint a token by the function": "select mint_token(gen_random_uuid(), gen_random_uuid(),"
    " 'mine', sha256('mine'), null, true)",
    "bring a token back": "update api_tokens set revoked_at = null",
    "take a token over": "update api_tokens set token_hash = sha256('mine')",
    "make a token last": "update api_tokens set expires_at = null",
    "revoke everybody's tokens": "select revoke_tokens(array(select id from api_tokens))",
    "bind a token": "update api_tokens set surfaces = '{*}', tenant_ids = null",
    "bind a token by the function": "select bind_token(id, '{*}', null, true, true)"
    " from api_tokens",
    "become an owner": "insert into platform_roles values (gen_random_uuid(), 'owner')",
    "take roles away": "delete from platform_roles",
    "become an admin": "insert into memberships values (gen_random_uuid(), null, 'admin')",
    "take a name": "update principals set email = 'owner@example.org'",
    "make a user": "insert into principals (id, email) values (gen_random_uuid(), 'x@example.org')",
    "end a tenant": "update tenants set ended_at = now()",
    "make a tenant": "insert into tenants (id, slug, name) values (gen_random_uuid(), 'x', 'x')",
    "record a change by nobody": "select record_change('users.grant', 'users grant x owner')",
}
OF_THE_LEDGER = {
    "lower a generation": "update cache_generations set generation = 1",
    "forget generations": "delete from cache_generations",
    "lock generations": "lock cache_generations in access exclusive mode",
    "change an event": "update audit_events set outcome = 'denied'",
    "remove an event": "delete from audit_events",
    "free a number": "delete from audit_numbers",
    "take a number": "insert into audit_numbers values (gen_random_uuid(), 1, gen_random_uuid())",
    "stop a trigger": "alter table api_tokens disable trigger recorded",
    "remove a trigger": "drop trigger recorded on platform_roles",
    "replicate": "set session_replication_role = replica",
    "become the owner": "set role sightline_owner",
    "become somebody else": "set session authorization sightline_commands",
    "lock a turn": "select from turns for share",
    "end turns": "delete from turns",
}
OF_APPENDING = {
    "append an event": "insert into audit_events (id) select gen_random_uuid()",
    "hide tenants": "insert into excluded_sets values ('x', '{}')",
    "fill quarantine": "insert into audit_quarantine values ('x', now(), 'x', 'x')",
    "contradict an event": "insert into audit_contradictions select gen_random_uuid(), 'x', now()",
    "make partitions": "select ensure_audit_partition('2030-01-01')",
    "hold up appends": "select take_turn_to_append()",
    "hold up quarantine": "select take_turn_to_quarantine()",
    "hold up simulations": "select take_turn_to_simulate()",
}


@pytest.fixture
def attacker(
    request: pytest.FixtureRequest, environment: dict[str, str]
) -> Iterator[tuple[Connection, str | None]]:
    login, role = request.param
    with connected(environment, login) as connection:
        if role is not None:
            connection.execute(text(f"set role {role}"))
        yield connection, role


@pytest.mark.parametrize("attacker", ROLES, indirect=True, ids=str)
@pytest.mark.parametrize("statement", [*OF_IDENTITY.values(), *OF_THE_LEDGER.values()])
def test_servers_login_cannot_change_identity_or_rewrite_anything(
    attacker: tuple[Connection, str | None], statement: str
) -> None:
    with pytest.raises(ProgrammingError, match="permission denied|must be owner"):
        attacker[0].execute(text(statement))


@pytest.mark.parametrize(
    "attacker", [(login, role) for login, role in ROLES if login == "web"], indirect=True, ids=str
)
@pytest.mark.parametrize("statement", OF_APPENDING.values())
def test_webs_login_cannot_append(attacker: tuple[Connection, str | None], statement: str) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        attacker[0].execute(text(statement))


@pytest.mark.parametrize(
    "attacker",
    [(login, role) for login, role in ROLES if login == "worker"],
    indirect=True,
    ids=str,
)
@pytest.mark.parametrize(
    "statement",
    [
        "select token_hash from api_tokens",
        "select principal_id from api_tokens",
        "update api_tokens set last_used_at = now(), revoked_at = null",
    ],
)
def test_workers_login_reads_no_token(
    attacker: tuple[Connection, str | None], statement: str
) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        attacker[0].execute(text(statement))


@pytest.mark.parametrize(
    "attacker", [("worker", LEDGER_ROLE), ("worker", MAINTENANCE_ROLE)], indirect=True, ids=str
)
@pytest.mark.parametrize(
    "statement",
    [
        "select name from rules",
        "select event from audit_events",
        "select actor_email from audit_events",
    ],
)
def test_role_that_tasks_run_in_reads_no_rule_and_no_event(
    attacker: tuple[Connection, str | None], statement: str
) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        attacker[0].execute(text(statement))


@pytest.fixture
def directory(environment: dict[str, str]) -> Iterator[Connection]:
    """A transaction that administers, with the login of commands."""
    with connected(environment, "commands") as connection:
        connection.execute(text(f"set role {DIRECTORY_ROLE}"))
        yield connection


MINT = text("select mint_token(gen_random_uuid(), :owner, :name, :hash, :expires_at, false)")


def token(account: Account, **changes: object) -> dict[str, object]:
    new = {"name": "laptop", "hash": uuid4().bytes * 2, "expires_at": None}
    return {"owner": account.id, **new, **changes}


NOW = datetime.now(UTC)
BAD_TOKENS: dict[str, tuple[dict[str, object], str]] = {
    "of nobody": ({"owner": uuid4()}, "no such user"),
    "of a wrong hash": ({"hash": b"short"}, "ck_api_tokens_token_hash"),
    "without a hash": ({"hash": None}, "null value"),
    "that has expired": ({"expires_at": NOW - timedelta(days=1)}, "within ten years"),
    "for ever, nearly": ({"expires_at": NOW + timedelta(days=3700)}, "within ten years"),
    "without a name": ({"name": ""}, "1 to 200 characters"),
    "of a long name": ({"name": "x" * 201}, "1 to 200 characters"),
}


@pytest.mark.parametrize("bad", BAD_TOKENS)
def test_bad_token_is_not_minted(app: Flask, directory: Connection, bad: str) -> None:
    changes, problem = BAD_TOKENS[bad]
    with pytest.raises(DBAPIError, match=problem):
        directory.execute(MINT, token(add_account(app), **changes))


def test_token_of_ended_user_is_not_minted(app: Flask, directory: Connection) -> None:
    account = add_account(app)
    ended = text("update principals set ended_at = now() where id = :id")
    directory.execute(ended, {"id": account.id})
    with pytest.raises(DBAPIError, match="it has ended"):
        directory.execute(MINT, token(account))


def test_token_is_revoked_once_and_stays_so(
    app: Flask, directory: Connection, owner_engine: Engine
) -> None:
    account = add_account(app)
    revoke = text("select revoke_tokens(array[cast(:id as uuid)])")
    of_it = {"id": account.token_id}
    revoked = text("select revoked_at from api_tokens where id = :id")
    assert directory.scalars(revoke, of_it).all() == [account.token_id]
    first = directory.scalar(revoked, of_it)
    assert directory.scalars(revoke, of_it).all() == []
    assert directory.scalar(revoked, of_it) == first
