"""Tests of the session: it is in a scope for whole transactions, and leaves none in the pool."""

from collections.abc import Callable
from contextlib import ExitStack
from uuid import UUID

import pytest
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.exc import ProgrammingError

from tests.isolation.rows import Owned
from webapp.db.scopes import (
    DirectoryScope,
    Exclusion,
    GlobalScope,
    IdentityScope,
    LedgerScope,
    MaintenanceScope,
    PolicyScope,
    PrincipalScope,
    RelayScope,
    Scope,
    TenantScope,
)
from webapp.db.session import ScopedSession, UnscopedSession
from webapp.extensions import POOL, db
from webapp.identity.models import ApiToken
from webapp.rules.models import RuleRow

MakeScope = Callable[[Owned], Scope]


def principal_scope(owned: Owned) -> Scope:
    return PrincipalScope(owned.principal_id, frozenset({owned.tenant_id}), staff=True)


def relay_scope(_: Owned) -> Scope:
    return RelayScope()


SCOPES: list[MakeScope] = [
    lambda owned: TenantScope(owned.tenant_id),
    lambda owned: GlobalScope(owned.event_id, Exclusion(frozenset({owned.tenant_id}))),
    lambda _: IdentityScope(),
    lambda _: DirectoryScope(),
    lambda _: LedgerScope(),
    relay_scope,
    lambda _: PolicyScope(),
    principal_scope,
    lambda _: MaintenanceScope(),
]

Query = Callable[[ScopedSession], object]
UNSCOPED: list[Query] = [
    lambda session: session.scalar(select(1)),
    lambda session: session.get(RuleRow, UUID(int=0)),
    lambda session: session.connection(),
    lambda session: session.execute(text("select 1")),
    lambda session: session.scalar(select(RuleRow).with_for_update()),
    lambda session: session.query(RuleRow).all(),
]


@pytest.mark.parametrize("ask", UNSCOPED)
def test_session_without_a_scope_refuses_every_query(session: ScopedSession, ask: Query) -> None:
    with pytest.raises(UnscopedSession):
        ask(session)


@pytest.mark.parametrize("ask", UNSCOPED)
def test_session_that_left_its_scope_refuses_every_query(inside: ScopedSession, ask: Query) -> None:
    inside.scalar(select(1))
    inside.enter(None)
    with pytest.raises(UnscopedSession):
        ask(inside)


@pytest.mark.parametrize("end", ["commit", "rollback", "close", "abandon"])
@pytest.mark.parametrize("scope", SCOPES)
def test_pooled_connection_has_no_scope_when_it_is_used_again(
    app: Flask, ours: Owned, scope: MakeScope, end: str
) -> None:
    with app.app_context():
        db.session.enter(scope(ours))
        backend = db.session.scalar(text("select pg_backend_pid()"))
        if end != "abandon":
            getattr(db.session, end)()
        db.session.close()
    with app.app_context(), ExitStack() as held:
        # The pool may have other connections: hold each one until the used one comes up.
        pooled = (held.enter_context(db.engine.connect()) for _ in range(POOL["pool_size"]))
        process_id = text("select pg_backend_pid()")
        connection = next(other for other in pooled if other.scalar(process_id) == backend)
        left = connection.execute(
            text(
                "select current_user = session_user,"
                " coalesce(current_setting('sightline.tenant_id', true), ''),"
                " coalesce(current_setting('sightline.access', true), ''),"
                " coalesce(current_setting('sightline.excluded', true), '')"
            )
        ).one()
        assert tuple(left) == (True, "", "", "")
        with pytest.raises(ProgrammingError, match="permission denied"):
            connection.execute(select(RuleRow))


def test_failed_scope_leaves_no_role_on_the_connection(app: Flask, ours: Owned) -> None:
    with app.app_context():
        with (
            pytest.raises(ProgrammingError),
            db.scoped(TenantScope(ours.tenant_id)),
        ):
            db.session.execute(text("select nonsense"))
        assert db.session.scope is None
        with db.engine.connect() as connection:
            assert connection.scalar(text("select current_user = session_user"))


def test_nested_scope_ends_in_the_outer_scope(
    inside: ScopedSession, ours: Owned, theirs: Owned
) -> None:
    with db.scoped(TenantScope(theirs.tenant_id)):
        assert list(inside.scalars(select(RuleRow.id))) == [theirs.rule_id]
        with db.scoped(IdentityScope()):
            assert inside.scalar(text("select current_user")) == "sightline_identity"
        assert list(inside.scalars(select(RuleRow.id))) == [theirs.rule_id]
    assert list(inside.scalars(select(RuleRow.id))) == [ours.rule_id]


@pytest.mark.parametrize(
    "statement",
    [
        "reset role",
        "set role none",
        "set local role none",
        "set session authorization default",
        "select set_config('role', 'none', false)",
        "select set_config('role', 'none', true)",
    ],
)
def test_login_role_can_read_and_write_nothing(
    inside: ScopedSession, theirs: Owned, statement: str
) -> None:
    """Each statement returns the transaction to the login role."""
    for query in ("select id from rules", "update rules set name = 'taken over'"):
        with pytest.raises(ProgrammingError, match=r"permission denied"):
            run(inside, statement, query)
        inside.rollback()


def run(session: ScopedSession, *statements: str) -> None:
    for statement in statements:
        session.execute(text(statement))


@pytest.mark.parametrize(
    "role", ["sightline_global", "sightline_identity", "sightline_ledger", "none"]
)
def test_role_of_another_scope_shows_no_rules(inside: ScopedSession, role: str) -> None:
    """The role lacks its settings, such as the access, or has no right to the rules."""
    inside.execute(text(f"set local role {role}"))
    try:
        shown = list(inside.scalars(select(RuleRow.id)))
    except ProgrammingError:
        shown = []
    assert shown == []


def test_session_with_reset_settings_shows_no_rules(inside: ScopedSession) -> None:
    inside.execute(text("reset all"))
    assert list(inside.scalars(select(RuleRow.id))) == []


@pytest.mark.parametrize("role", ["postgres", "pg_read_all_data", "pg_write_all_data"])
def test_session_cannot_assume_a_more_powerful_role(inside: ScopedSession, role: str) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        inside.execute(text(f"set local role {role}"))


def test_session_cannot_assume_the_tables_owner(inside: ScopedSession) -> None:
    owner = inside.scalar(text("select tableowner from pg_tables where tablename = 'rules'"))
    with pytest.raises(ProgrammingError, match="permission denied"):
        inside.execute(text(f'set local role "{owner}"'))


def test_tenant_scope_reads_no_credentials(inside: ScopedSession) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        inside.scalars(select(ApiToken))


def test_session_level_setting_is_replaced_by_the_next_transaction(
    inside: ScopedSession, ours: Owned, theirs: Owned
) -> None:
    """`make lint-scope` refuses such settings. If one remains, the next transaction replaces it."""
    config = text("select set_config('sightline.tenant_id', :id, false)")
    inside.execute(config, {"id": str(theirs.tenant_id)})
    inside.commit()
    assert list(inside.scalars(select(RuleRow.id))) == [ours.rule_id]
    inside.execute(text("reset all"))
    inside.commit()
