"""Tests that in one tenant's scope each way to read shows own rows, and none of another tenant."""

from collections.abc import Callable
from contextlib import closing
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import column, exists, func, literal, select, table, text, union_all
from sqlalchemy.engine import Engine
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, aliased, registry, relationship
from sqlalchemy.orm.exc import ObjectDeletedError

from tests.isolation.rows import TENANT_MODELS, Owned
from webapp.audit.append import OWN_JOURNAL
from webapp.audit.models import AuditEventRow
from webapp.db.base import Base
from webapp.db.scopes import TenantScope
from webapp.db.session import ScopedSession
from webapp.extensions import db
from webapp.rules.models import RuleRow, RuleVersionRow

Reading = Callable[[Session, Owned], list[UUID]]
RULES = RuleRow.__table__


class PlainRule:
    """A careless mapping of the rules' table: it finds versions by the rule's id alone."""

    id: UUID
    versions: list["PlainVersion"]


class PlainVersion:
    rule_id: UUID


_plain = registry()
_plain.map_imperatively(PlainVersion, RuleVersionRow.__table__)
_plain.map_imperatively(
    PlainRule,
    RULES,
    properties={
        "versions": relationship(
            PlainVersion,
            primaryjoin=RULES.c.id == RuleVersionRow.__table__.c.rule_id,
            foreign_keys=[RuleVersionRow.__table__.c.rule_id],
            viewonly=True,
        )
    },
)


def core_select(session: Session, owner: Owned) -> list[UUID]:
    return list(session.scalars(select(RULES.c.id).where(RULES.c.id == owner.rule_id)))


def orm_select(session: Session, owner: Owned) -> list[UUID]:
    query = select(RuleRow).where(RuleRow.tenant_id == owner.tenant_id)
    return [found.id for found in session.scalars(query)]


def legacy_query(session: Session, owner: Owned) -> list[UUID]:
    return [row.id for row in session.query(RuleRow).filter_by(id=owner.rule_id)]


def raw_text(session: Session, owner: Owned) -> list[UUID]:
    return list(session.scalars(text("select id from rules where id = :id"), {"id": owner.rule_id}))


def from_statement(session: Session, owner: Owned) -> list[UUID]:
    query = select(RuleRow).from_statement(text("select * from rules where id = :id"))
    return [found.id for found in session.scalars(query, {"id": owner.rule_id})]


def untyped_table(session: Session, owner: Owned) -> list[UUID]:
    rules = table("rules", column("id"))
    return list(session.scalars(select(rules.c.id).where(rules.c.id == owner.rule_id)))


def populate_existing(session: Session, owner: Owned) -> list[UUID]:
    found = session.get(RuleRow, owner.rule_id, populate_existing=True)
    return [found.id] if found else []


def locked(session: Session, owner: Owned) -> list[UUID]:
    query = select(RuleRow.id).where(RuleRow.id == owner.rule_id).with_for_update()
    return list(session.scalars(query))


def connection(session: Session, owner: Owned) -> list[UUID]:
    return list(
        session.connection()
        .execute(select(RULES.c.id).where(RULES.c.id == owner.rule_id))
        .scalars()
    )


def driver_sql(session: Session, owner: Owned) -> list[UUID]:
    result = session.connection().exec_driver_sql(
        "select id from rules where id = %s", (str(owner.rule_id),)
    )
    return [UUID(str(value)) for value in result.scalars()]


def driver_cursor(session: Session, owner: Owned) -> list[UUID]:
    with closing(session.connection().connection.cursor()) as cursor:
        cursor.execute("select id from only rules where id = %s", (str(owner.rule_id),))
        return [UUID(str(row[0])) for row in cursor.fetchall()]


def counted(session: Session, owner: Owned) -> list[UUID]:
    query = select(func.count()).select_from(RuleRow).where(RuleRow.id == owner.rule_id)
    return [owner.rule_id] * (session.scalar(query) or 0)


def existence(session: Session, owner: Owned) -> list[UUID]:
    found = session.scalar(select(exists().where(RuleRow.id == owner.rule_id)))
    return [owner.rule_id] if found else []


def in_a_union(session: Session, owner: Owned) -> list[UUID]:
    wanted = select(RULES.c.id).where(RULES.c.id == owner.rule_id)
    return list(session.scalars(union_all(wanted, wanted)))


def in_a_cte(session: Session, owner: Owned) -> list[UUID]:
    found = select(RuleRow.id).where(RuleRow.id == owner.rule_id).cte()
    return list(session.scalars(select(found.c.id)))


def joined(session: Session, owner: Owned) -> list[UUID]:
    other = aliased(RuleRow)
    query = select(other.id).join(RuleRow, literal(True)).where(other.id == owner.rule_id)
    return list(session.scalars(query))


def by_history(session: Session, owner: Owned) -> list[UUID]:
    query = select(RuleVersionRow.rule_id).where(RuleVersionRow.rule_id == owner.rule_id)
    return list(session.scalars(query))


def lazy_loaded(session: Session, owner: Owned) -> list[UUID]:
    """Read from an object that claims to be the rule, as one from a pickle or a form would."""
    claimed = PlainRule()
    claimed.id = owner.rule_id
    session.enable_relationship_loading(claimed)
    return [version.rule_id for version in claimed.versions]


READINGS: list[Reading] = [
    core_select,
    orm_select,
    legacy_query,
    raw_text,
    from_statement,
    untyped_table,
    populate_existing,
    locked,
    connection,
    driver_sql,
    driver_cursor,
    counted,
    existence,
    in_a_union,
    in_a_cte,
    joined,
    by_history,
    lazy_loaded,
]


@pytest.mark.parametrize("reading", READINGS)
def test_query_shows_the_own_tenants_row(
    inside: ScopedSession, ours: Owned, reading: Reading
) -> None:
    assert set(reading(inside, ours)) == {ours.rule_id}


@pytest.mark.parametrize("reading", READINGS)
def test_query_shows_no_row_of_another_tenant(
    inside: ScopedSession, theirs: Owned, reading: Reading
) -> None:
    assert reading(inside, theirs) == []


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("end", [Session.commit, Session.rollback])
def test_query_shows_no_row_of_another_tenant_after_a_transaction_ended(
    inside: ScopedSession,
    ours: Owned,
    theirs: Owned,
    reading: Reading,
    end: Callable[[Session], None],
) -> None:
    assert raw_text(inside, ours)
    end(inside)
    assert reading(inside, theirs) == []
    assert set(reading(inside, ours)) == {ours.rule_id}


@pytest.mark.parametrize("reading", READINGS)
def test_query_shows_no_row_of_another_tenant_in_a_savepoint(
    inside: ScopedSession, ours: Owned, theirs: Owned, reading: Reading
) -> None:
    with inside.begin_nested():
        assert reading(inside, theirs) == []
    inside.begin_nested().rollback()
    assert reading(inside, theirs) == []
    assert set(reading(inside, ours)) == {ours.rule_id}


@pytest.mark.parametrize("model", TENANT_MODELS)
def test_get_finds_the_own_tenants_row_only(
    inside: ScopedSession, ours: Owned, theirs: Owned, model: type[Base]
) -> None:
    assert inside.get(model, ours.key(model)) is not None
    assert inside.get(model, theirs.key(model)) is None
    # Each tenant also sees the accesses to all tenants, and how it and its member were made.
    at_it = [
        AuditEventRow.scope_kind == "tenant",
        AuditEventRow.origin_journal != OWN_JOURNAL,
    ]
    at_it = at_it if model is AuditEventRow else []
    assert len(list(inside.scalars(select(model).where(*at_it)))) == 1


@pytest.mark.parametrize("model", TENANT_MODELS)
def test_object_loaded_in_another_scope_is_not_in_the_identity_map(
    inside: ScopedSession, theirs: Owned, model: type[Base]
) -> None:
    with db.scoped(TenantScope(theirs.tenant_id)):
        loaded = inside.get(model, theirs.key(model))
        assert loaded is not None
    assert inside.get(model, theirs.key(model)) is None


def test_object_loaded_in_another_scope_cannot_be_refreshed(
    inside: ScopedSession, theirs: Owned
) -> None:
    with db.scoped(TenantScope(theirs.tenant_id)):
        loaded = inside.get_one(RuleRow, theirs.rule_id)
    inside.add(loaded)
    with pytest.raises(InvalidRequestError):
        inside.refresh(loaded)


def test_object_loaded_in_another_scope_cannot_load_expired_attributes(
    inside: ScopedSession, theirs: Owned
) -> None:
    with db.scoped(TenantScope(theirs.tenant_id)):
        loaded = inside.get_one(RuleRow, theirs.rule_id)
    inside.add(loaded)
    inside.expire(loaded)
    with pytest.raises(ObjectDeletedError):
        _ = loaded.name


def test_planner_statistics_are_not_visible(inside: ScopedSession, owner_engine: Engine) -> None:
    """The planner's statistics hold values of all tenants."""
    with owner_engine.begin() as connection:
        connection.execute(text("analyze rules"))
    shown: Any = inside.scalar(text("select count(*) from pg_stats where tablename = 'rules'"))
    assert shown == 0


def test_view_shows_the_own_tenants_rows_only(
    inside: ScopedSession, ours: Owned, rules_view: str
) -> None:
    assert list(inside.scalars(text(f"select id from {rules_view}"))) == [ours.rule_id]  # noqa: S608 - the fixture's name
