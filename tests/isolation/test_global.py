"""Tests of the global scope: it shows all tenants but the excluded, and only with an access."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update
from sqlalchemy.exc import ProgrammingError

from tests.isolation.rows import SHOWN_TO_ALL_TENANTS, Owned, add_event, add_rows, rule
from webapp.audit.models import AuditEventRow
from webapp.db.base import Base
from webapp.db.scopes import Exclusion, GlobalScope, LedgerScope
from webapp.db.session import ScopedSession
from webapp.extensions import db
from webapp.identity.models import Tenant
from webapp.rules.models import RuleRow

TENANTS = 4


@dataclass(frozen=True)
class World:
    tenants: tuple[Owned, ...]
    platform_rule: UUID
    platform_event: UUID


@pytest.fixture
def world(app: Flask) -> World:
    with app.app_context():
        tenants = tuple(add_rows(db.session, f"t-{uuid4().hex}") for _ in range(TENANTS))
        with db.scoped(GlobalScope(uuid4())):
            platform = rule(None)
            db.session.add(platform)
            db.session.flush()
            platform_rule = platform.id
            db.session.commit()
        with db.scoped(LedgerScope()):
            platform_event = add_event(db.session, None)
            db.session.commit()
    return World(tenants, platform_rule, platform_event)


@pytest.fixture
def global_session(session: ScopedSession, world: World) -> Iterator[ScopedSession]:
    with db.scoped(GlobalScope(uuid4(), Exclusion(frozenset({world.tenants[0].tenant_id})))):
        yield session


@pytest.mark.slow
@given(excluded=st.sets(st.integers(0, TENANTS - 1)), strangers=st.integers(0, 3))
@settings(
    max_examples=40,
    deadline=None,
    # The rows are only read, so all examples can share them.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_global_access_leaves_out_exactly_the_excluded_tenants(
    app: Flask, world: World, excluded: set[int], strangers: int
) -> None:
    out = frozenset(world.tenants[number].tenant_id for number in excluded)
    scope = GlobalScope(uuid4(), Exclusion(out | {uuid4() for _ in range(strangers)}))
    seen = [owned for number, owned in enumerate(world.tenants) if number not in excluded]
    every = {owned.rule_id for owned in world.tenants} | {world.platform_rule}
    events = {owned.event_id for owned in world.tenants} | {world.platform_event}
    with app.app_context(), db.scoped(scope):
        shown = set(db.session.scalars(select(RuleRow.id).where(RuleRow.id.in_(every))))
        assert shown == {owned.rule_id for owned in seen} | {world.platform_rule}
        shown = set(
            db.session.scalars(select(AuditEventRow.id).where(AuditEventRow.id.in_(events)))
        )
        assert shown == {owned.event_id for owned in seen} | {world.platform_event}
        for model in SHOWN_TO_ALL_TENANTS:
            for owned in world.tenants:
                found = db.session.get(model, owned.key(model)) is not None
                assert found == (owned in seen), model
        slugs = set(db.session.scalars(select(Tenant.slug)))
        assert {owned.slug for owned in world.tenants} & slugs == {owned.slug for owned in seen}


@pytest.mark.parametrize("model", SHOWN_TO_ALL_TENANTS)
def test_global_scope_without_an_access_shows_nothing(
    session: ScopedSession, world: World, model: type[Base]
) -> None:
    assert world.tenants
    with db.scoped(GlobalScope(uuid4())):
        assert session.scalars(select(model)).first() is not None
        session.execute(text("select set_config('sightline.access', '', true)"))
        assert session.scalars(select(model)).first() is None


def test_row_of_an_excluded_tenant_cannot_be_written(
    global_session: ScopedSession, world: World
) -> None:
    out, seen = world.tenants[:2]
    for owned, changed in ((out, 0), (seen, 1)):
        statement = update(RuleRow).where(RuleRow.id == owned.rule_id).values(description="seen")
        assert getattr(global_session.execute(statement), "rowcount", None) == changed


def test_row_cannot_be_added_to_an_excluded_tenant(
    global_session: ScopedSession, world: World
) -> None:
    global_session.add(rule(world.tenants[0].tenant_id))
    with pytest.raises(ProgrammingError, match="row-level security"):
        global_session.flush()


def test_global_access_reads_no_credentials(global_session: ScopedSession) -> None:
    for table in ("api_tokens", "principals", "platform_roles"):
        with pytest.raises(ProgrammingError, match="permission denied"):
            global_session.execute(text(f"table {table}"))
        global_session.rollback()
