"""The session is in its scope for whole transactions only, and leaves nothing in the pool."""

from collections.abc import Callable
from contextlib import ExitStack
from uuid import UUID

import pytest
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.exc import ProgrammingError

from tests.isolation.rows import Owned
from webapp.db.scopes import (
    Exclusion,
    GlobalScope,
    IdentityScope,
    LedgerScope,
    Scope,
    TenantScope,
)
from webapp.db.session import ScopedSession, UnscopedSession
from webapp.extensions import POOL, db
from webapp.identity.models import ApiToken
from webapp.rules.models import RuleRow

MakeScope = Callable[[Owned], Scope]

SCOPES: list[MakeScope] = [
    lambda owned: TenantScope(owned.tenant_id),
    lambda owned: GlobalScope(owned.event_id, Exclusion(frozenset({owned.tenant_id}))),
    lambda _: IdentityScope(),
    lambda _: LedgerScope(),
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
def test_without_a_scope_nothing_is_asked(session: ScopedSession, ask: Query) -> None:
    with pytest.raises(UnscopedSession):
        ask(session)


@pytest.mark.parametrize("ask", UNSCOPED)
def test_after_a_scope_nothing_is_asked(inside: ScopedSession, ask: Query) -> None:
    inside.scalar(select(1))
    inside.enter(None)
    with pytest.raises(UnscopedSession):
        ask(inside)


@pytest.mark.parametrize("end", ["commit", "rollback", "close", "abandon"])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_connection_leaves_its_scope_before_it_is_used_again(
    app: Flask, ours: Owned, scope: MakeScope, end: str
) -> None:
    with app.app_context():
        db.session.enter(scope(ours))
        backend = db.session.scalar(text("select pg_backend_pid()"))
        if end != "abandon":
            getattr(db.session, end)()
        db.session.close()
    with app.app_context(), ExitStack() as held:
        # The pool may have others too; each is held until the one that was used comes up.
        pooled = (held.enter_context(db.engine.connect()) for _ in range(POOL["pool_size"]))
        asked = text("select pg_backend_pid()")
        connection = next(other for other in pooled if other.scalar(asked) == backend)
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


def test_a_scope_that_failed_leaves_nothing(app: Flask, ours: Owned) -> None:
    with app.app_context():
        with (
            pytest.raises(ProgrammingError),
            db.scoped(TenantScope(ours.tenant_id)),
        ):
            db.session.execute(text("select nonsense"))
        assert db.session.scope is None
        with db.engine.connect() as connection:
            assert connection.scalar(text("select current_user = session_user"))


def test_scopes_nest_and_come_back(inside: ScopedSession, ours: Owned, theirs: Owned) -> None:
    with inside.scoped(TenantScope(theirs.tenant_id)):
        assert list(inside.scalars(select(RuleRow.id))) == [theirs.rule_id]
        with inside.scoped(IdentityScope()):
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
def test_the_way_back_to_the_login_role_leads_nowhere(
    inside: ScopedSession, theirs: Owned, statement: str
) -> None:
    """The login role itself may read and write nothing."""
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
def test_another_scopes_role_shows_no_rules(inside: ScopedSession, role: str) -> None:
    """A role without what goes with it: no access, and no right to the rules."""
    inside.execute(text(f"set local role {role}"))
    try:
        shown = list(inside.scalars(select(RuleRow.id)))
    except ProgrammingError:
        shown = []
    assert shown == []


def test_the_settings_reset_show_nothing(inside: ScopedSession) -> None:
    inside.execute(text("reset all"))
    assert list(inside.scalars(select(RuleRow.id))) == []


@pytest.mark.parametrize("role", ["postgres", "pg_read_all_data", "pg_write_all_data"])
def test_no_mightier_role_can_be_assumed(inside: ScopedSession, role: str) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        inside.execute(text(f"set local role {role}"))


def test_the_owners_role_cannot_be_assumed(inside: ScopedSession) -> None:
    owner = inside.scalar(text("select tableowner from pg_tables where tablename = 'rules'"))
    with pytest.raises(ProgrammingError, match="permission denied"):
        inside.execute(text(f'set local role "{owner}"'))


def test_a_tenants_scope_reads_no_credentials(inside: ScopedSession) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        inside.scalars(select(ApiToken))


def test_a_session_level_set_does_not_outlive_the_next_begin(
    inside: ScopedSession, ours: Owned, theirs: Owned
) -> None:
    """The lint refuses them; should one slip through, the next transaction sets its own."""
    config = text("select set_config('sightline.tenant_id', :id, false)")
    inside.execute(config, {"id": str(theirs.tenant_id)})
    inside.commit()
    assert list(inside.scalars(select(RuleRow.id))) == [ours.rule_id]
    inside.execute(text("reset all"))
    inside.commit()
