"""Somebody with the password of a process's login role, who sends SQL of their own.

`TRIES` must be refused whatever scope the role enters. docs/architecture.md says what else such a
transaction can do.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from reliability.faults.history import Harm
from reliability.hostile.attack import Attack, Scene
from tests.audit.events import make_event, make_request
from tests.audit.ledgers import NO_SIGNATURE
from webapp.audit.event import dump_event
from webapp.stack.home import environment_of

TRIES: Mapping[str, str] = {
    "change an event": "update audit_events set actor_email = 'nobody@example.org'",
    "delete an event": "delete from audit_events",
    "empty the ledger": "truncate audit_events",
    "drop the ledger": "drop table audit_events cascade",
    "remove the trigger": "alter table audit_events disable trigger all",
    "lift row level security": "alter table audit_events disable row level security",
    "change a number": "update audit_numbers set seq = seq + 1",
    "take a number": "insert into audit_numbers values (gen_random_uuid(), 1, gen_random_uuid())",
    "delete a contradiction": "delete from audit_contradictions",
    "empty quarantine": "delete from audit_quarantine",
    "change a set": "update excluded_sets set tenant_ids = '{}'",
    "lower a generation": "update cache_generations set generation = 0",
    "insert a generation": "insert into cache_generations (tag, generation) values ('x', 0)",
    "delete a generation": "delete from cache_generations",
    "lock the generations": "lock table cache_generations in access exclusive mode",
    "lock the ledger": "lock table audit_events in access exclusive mode",
    "change a version": "update rule_versions set version = 0",
    "delete a rule": "delete from rules",
    "delete a grant": "delete from grants",
    "delete a person": "delete from principals",
    "delete a token": "delete from api_tokens",
    "insert a token": (
        "insert into api_tokens (id, principal_id, token_hash, name, mfa)"
        " values (gen_random_uuid(), %(person)s, sha256('x'), 'minted', true)"
    ),
    "mint a token": (
        "select mint_token(gen_random_uuid(), %(person)s, 'x', sha256('x'), null, true)"
    ),
    "revoke a token": "select revoke_tokens(array[cast(%(token)s as uuid)])",
    "bring a token back": "update api_tokens set revoked_at = null",
    "make a person": (
        "insert into principals (id, email) values (gen_random_uuid(), 'x@example.org')"
    ),
    "give a role": "insert into platform_roles values (%(person)s, 'auditor')",
    "give a membership": (
        "insert into memberships (tenant_id, principal_id, role)"
        " select id, %(person)s, 'admin' from tenants limit 1"
    ),
    "end a tenant": "update tenants set ended_at = now()",
    "record what it likes": "select record_change('tokens.create', 'x')",
    "forget the migration": "update alembic_version set version_num = '0001'",
    "become the owner": "set role sightline_owner",
    "become a superuser": "set role postgres",
    "make a role": "create role intruder login superuser",
    "promote itself": "alter role current_user superuser",
    "read passwords": "select rolpassword from pg_authid",
    "read a file": "select pg_read_file('/etc/passwd')",
    "run a program": "copy (select 1) to program 'true'",
    "make a table": "create table public.intruder (x int)",
    "replace a function": (
        "create or replace function public.event_digest(event json) returns bytea language sql"
        " as $$ select ''::bytea $$"
    ),
    "load a library": "load 'plpython3u'",
    "switch triggers off": "set session_replication_role = replica",
}
"""What is tried, in each scope."""

PROCESSES = ("web", "worker")

COLUMNS = (
    *("id", "tenant_id", "tenant", "occurred_at", "kind", "actor_id", "actor_email", "surface"),
    *("reason_code", "ticket", "scope_kind", "effect", "outcome", "request_id", "origin_journal"),
    *("origin_seq", "event"),
)
INSERT_EVENT = (
    f"insert into audit_events ({', '.join(COLUMNS)})"  # noqa: S608 - constants
    f" values ({', '.join(f'%({name})s' for name in COLUMNS)})"
)
LOCKS = (0x5167711E, 0x5167711F)
"""Advisory locks, which appends and quarantine take no more."""

HELD = 3.0
"""Seconds that locks are held at a time."""

BY_SQL = "made-up"
"""The request ids of events that are made up with the password begin so."""


def url_of(scene: Scene, process: str = "web") -> str:
    """Where a kind of process logs in, with its password."""
    return environment_of(process, scene.installation.environment)["DATABASE_URL"]


@contextmanager
def connected(scene: Scene, process: str = "web") -> Iterator[Connection]:
    """A connection of a process's login role, whose transactions are committed one by one."""
    with closing(psycopg2.connect(url_of(scene, process))) as made:
        made.autocommit = True
        with made.cursor() as cursor:
            cursor.execute("set statement_timeout = '5s'; set lock_timeout = '2s'")
        yield made


def columns_of(event_id: object, request_id: str) -> dict[str, Any]:
    """The row of a made-up event."""
    request = make_request(request_id)
    event = make_event(id=UUID(str(event_id)), request=request)
    assert event.origin is not None
    assert event.reason is not None
    return {
        "id": str(event.id),
        "tenant_id": None,
        "tenant": None,
        "occurred_at": event.occurred_at,
        "kind": event.kind,
        "actor_id": str(event.actor.id),
        "actor_email": event.actor.email,
        "surface": event.surface,
        "reason_code": event.reason.code,
        "ticket": event.reason.ticket,
        "scope_kind": event.scope.kind,
        "effect": event.decision.effect,
        "outcome": event.outcome,
        "request_id": request_id,
        "origin_journal": str(event.origin.journal),
        "origin_seq": event.origin.seq,
        "event": dump_event(event).decode(),
    }


def roles_of(made: Connection) -> list[str | None]:
    """The roles that the login may enter, and none."""
    with made.cursor() as cursor:
        cursor.execute(
            "select rolname from pg_roles where pg_has_role(session_user, oid, 'MEMBER')"
            " and rolname <> session_user"
        )
        return [None, *(name for [name] in cursor.fetchall())]


def _try(
    made: Connection,
    role: str | None,
    statement: str,
    values: Any = None,
    *,
    keep: bool = True,
    result: int | None = None,
) -> bool:
    """Whether a statement does anything, or has this result. Unless it is to `keep` that, what it
    did is rolled back."""
    with made.cursor() as cursor:
        cursor.execute("begin")
        try:
            if role is not None:
                cursor.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
            cursor.execute(statement, values)
            if result is not None:
                return cursor.fetchone() == (result,)
            return bool(cursor.rowcount)  # -1 for what has no rows
        except psycopg2.Error:
            return False
        finally:
            cursor.execute("commit" if keep else "rollback")


def _try_all(scene: Scene) -> None:
    """Try everything with each login, in every scope that it may enter."""
    owner = scene.victims.platform["owner"]
    values = {"person": str(owner.id), "token": str(owner.token_id)}
    for _ in scene.meanwhile():
        for process in PROCESSES:
            _try_as(scene, process, values)


def _try_as(scene: Scene, process: str, values: Mapping[str, str]) -> None:
    with connected(scene, process) as made:
        roles = roles_of(made)
        scene.did[f"scopes of the {process}'s login"] = len(roles) - 1
        for what, statement in TRIES.items():
            for role in roles:
                let = _try(made, role, statement, values, keep=False)
                scene.did["statements let" if let else "statements refused"] += 1
                scene.expect(not let, f"{role or 'the login'} of the {process} can {what}")


def append(made: Connection, role: str | None, values: Mapping[str, Any]) -> bool:
    """Append an event, as a row or by the function that workers append by; whether that was let."""
    by_function = "select append_events(cast(%s as json), array[%s])"
    return _try(made, role, f"{INSERT_EVENT} on conflict do nothing", values) or _try(
        made, role, by_function, (f"[{values['event']}]", NO_SIGNATURE), result=1
    )


def _make_up(scene: Scene) -> None:
    """Make up events. The web's login may not; a worker's may, docs/architecture.md says."""
    for _ in scene.meanwhile():
        for process in PROCESSES:
            with connected(scene, process) as made:
                let = sum(
                    append(made, role, columns_of(make_event().id, f"{BY_SQL}.{uuid4().hex}"))
                    for role in roles_of(made)
                )
            scene.did[f"made-up events let by the {process}'s login"] += let
            scene.expect(process == "worker" or not let, f"the {process}'s login can append")
        time.sleep(0.5)


def _hold_locks(scene: Scene) -> None:
    """Hold every lock that the role gets, and end the product's connections."""
    tables = ("audit_events", "rules", "grants", "principals", "api_tokens", "cache_generations")
    for _ in scene.meanwhile():
        with connected(scene) as made:
            for lock in LOCKS:
                scene.did["advisory locks held"] += _try(
                    made, None, f"select pg_advisory_lock({lock})"
                )
            made.autocommit = False
            for table in tables:
                for role in roles_of(made):
                    scene.did["tables locked"] += _lock(made, role, table)
            time.sleep(HELD)
            made.rollback()
            made.autocommit = True
            scene.did["connections ended"] += _end_others(made)


def _lock(made: Connection, role: str | None, table: str) -> bool:
    with made.cursor() as cursor:
        cursor.execute("savepoint one")
        try:
            if role is not None:
                cursor.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
            cursor.execute(f"lock table {table} in access exclusive mode")
        except psycopg2.Error:
            cursor.execute("rollback to savepoint one")
            return False
        return True


def _take_connections(scene: Scene) -> None:
    """Open as many connections as the server has."""
    held: list[Connection] = []
    try:
        for _ in scene.meanwhile():
            try:
                held.append(psycopg2.connect(url_of(scene)))
                scene.did["connections"] += 1
            except psycopg2.OperationalError:
                time.sleep(0.5)
    finally:
        for each in held:
            each.close()


def _set_itself(scene: Scene) -> None:
    """Make the roles read-only for all processes: doctor has to name that."""
    for process in PROCESSES:
        with connected(scene, process) as made:
            _try(made, None, "alter role current_user set default_transaction_read_only = on")
            scene.did["settings"] += 1
            _end_others(made)
    scene.expect_alarm("roles have only their limits")
    time.sleep(scene.seconds / 2)


def _end_others(made: Connection) -> bool:
    """End the other connections of the same login."""
    return _try(
        made,
        None,
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where usename = session_user and pid <> pg_backend_pid()",
    )


def _reset(scene: Scene) -> None:
    for process in PROCESSES:
        with connected(scene, process) as made, made.cursor() as cursor:
            cursor.execute("set default_transaction_read_only = off")
            cursor.execute("alter role current_user reset default_transaction_read_only")


_DATABASE: frozenset[Harm] = frozenset({"database"})

ATTACKS = (
    Attack("stolen login: everything that must be refused", _try_all),
    Attack("stolen login: events made up", _make_up),
    Attack("stolen login: locks held, connections ended", _hold_locks, _DATABASE),
    Attack("stolen login: all connections taken", _take_connections, _DATABASE),
    Attack("stolen login: roles made read-only", _set_itself, _DATABASE, repair=_reset),
)
