"""Tests that no role of the application, and not the tables' owner, can rewrite the ledger."""

import re

import pytest
from sqlalchemy import Engine, Executable, delete, inspect, select, text, update
from sqlalchemy.exc import DBAPIError, ProgrammingError

from tests.isolation.rows import Owned, add_event
from tests.isolation.test_session import SCOPES, MakeScope
from webapp.audit.models import AuditEventRow
from webapp.db.scopes import LedgerScope, TenantScope
from webapp.db.session import ScopedSession
from webapp.extensions import db

REWRITINGS: dict[str, Executable] = {
    "update": update(AuditEventRow).values(outcome="failed"),
    "update one": text("update audit_events set event = '{}' where outcome = 'served'"),
    "delete": delete(AuditEventRow),
    "truncate": text("truncate audit_events"),
    "upsert": text(
        "insert into audit_events (id, occurred_at) select id, occurred_at from audit_events"
        " on conflict (id, occurred_at) do update set outcome = 'failed'"
    ),
    "disable the trigger": text("alter table audit_events disable trigger all"),
    "replicate": text("set local session_replication_role = replica"),
    "drop": text("drop table audit_events"),
}


@pytest.mark.parametrize("rewriting", REWRITINGS)
@pytest.mark.parametrize("scope", SCOPES)
def test_no_scope_can_rewrite_the_ledger(
    session: ScopedSession, ours: Owned, scope: MakeScope, rewriting: str
) -> None:
    session.enter(scope(ours))
    with pytest.raises(ProgrammingError, match="permission denied|must be owner"):
        session.execute(REWRITINGS[rewriting])


@pytest.mark.parametrize("rewriting", ["update", "delete", "truncate"])
def test_login_role_cannot_rewrite_the_ledger(inside: ScopedSession, rewriting: str) -> None:
    inside.execute(text("set local role none"))
    with pytest.raises(ProgrammingError, match="permission denied"):
        inside.execute(REWRITINGS[rewriting])


@pytest.mark.parametrize(
    "statement", ["update audit_events set outcome = 'failed'", "delete from audit_events"]
)
def test_tables_owner_cannot_rewrite_the_ledger(
    owner_engine: Engine, ours: Owned, statement: str
) -> None:
    """Row level security is lifted here, so that only the trigger protects the ledger."""
    with owner_engine.connect() as connection:
        connection.execute(text("alter table audit_events no force row level security"))
        with pytest.raises(DBAPIError, match="append-only"):
            connection.execute(text(f"{statement} where id = :id"), {"id": ours.event_id})


def test_tables_owner_cannot_truncate_the_ledger(owner_engine: Engine) -> None:
    with owner_engine.connect() as connection, pytest.raises(DBAPIError, match="append-only"):
        connection.execute(text("truncate audit_events"))


@pytest.fixture
def partition(session: ScopedSession, ours: Owned) -> str:
    """The name of the partition that holds our event."""
    with db.scoped(TenantScope(ours.tenant_id)):
        found = text(
            "select cast(cast(tableoid as regclass) as text) from audit_events where id = :id"
        )
        name = session.scalars(found, {"id": ours.event_id}).one()
    assert re.fullmatch(r"audit_events_\d{6}", name)
    return str(name)


BY_NAME = {
    "read": "select id from {}",
    "append": "insert into {} (id) select id from {} where false",
    "update": "update {} set outcome = 'failed'",
    "delete": "delete from {}",
    "truncate": "truncate {}",
    "lock": "lock table {}",
    "drop": "drop table {}",
    "detach": "alter table audit_events detach partition {}",
}


@pytest.mark.parametrize("statement", BY_NAME)
@pytest.mark.parametrize("scope", [*SCOPES, None])
def test_no_scope_can_use_a_partition_by_its_name(
    session: ScopedSession, ours: Owned, partition: str, scope: MakeScope | None, statement: str
) -> None:
    """A scope of `None` is the login role."""
    session.enter(scope(ours) if scope else LedgerScope())
    if scope is None:
        session.execute(text("set local role none"))
    with pytest.raises(ProgrammingError, match="permission denied|must be owner"):
        session.execute(text(BY_NAME[statement].replace("{}", partition)))


@pytest.mark.parametrize("statement", ["update", "delete", "truncate"])
def test_tables_owner_cannot_rewrite_a_partition(
    owner_engine: Engine, partition: str, statement: str
) -> None:
    with owner_engine.connect() as connection:
        connection.execute(text(f"alter table {partition} no force row level security"))
        assert connection.scalar(text(f"select count(*) from {partition}"))  # noqa: S608 - the fixture's name
        with pytest.raises(DBAPIError, match="append-only"):
            connection.execute(text(BY_NAME[statement].replace("{}", partition)))


def test_tables_owner_cannot_read_or_append_by_a_partitions_name(
    owner_engine: Engine, partition: str
) -> None:
    with owner_engine.connect() as connection:
        assert connection.scalar(text(f"select count(*) from {partition}")) == 0  # noqa: S608 - the fixture's name
        connection.execute(text(f"create temp table mine (like {partition} including defaults)"))
        for column in ("visible_to", "excluded_digest", "digest", "origin_signature"):
            connection.execute(text(f"alter table mine drop column {column}"))
        connection.execute(
            text(
                "insert into mine select gen_random_uuid(), null, null, clock_timestamp(),"
                " clock_timestamp(), 'access', gen_random_uuid(), '', '', null, null, 'global',"
                " 'allowed', 'served', '', gen_random_uuid(), 1, '{}'"
            )
        )
        with pytest.raises(DBAPIError, match="row-level security"):
            connection.execute(text(f"insert into {partition} table mine"))


COUNTED = ("id", "digest", "origin_journal", "origin_seq", "occurred_at", "request_id")
"""Columns that show that an event exists, and not what was accessed, or by whom."""


def test_ledger_role_appends_and_reads_counting_columns(
    session: ScopedSession, ours: Owned
) -> None:
    with db.scoped(LedgerScope()):
        event_id = add_event(session, ours.tenant_id)
        session.commit()
        counted = select(*(getattr(AuditEventRow, name) for name in COUNTED))
        assert session.execute(counted.where(AuditEventRow.id == event_id)).one()
    with db.scoped(TenantScope(ours.tenant_id)):
        assert session.get(AuditEventRow, event_id) is not None


@pytest.mark.parametrize(
    "column", [c.key for c in inspect(AuditEventRow).columns if c.key not in COUNTED]
)
def test_ledger_role_reads_no_other_column(
    session: ScopedSession, ours: Owned, column: str
) -> None:
    session.enter(LedgerScope())
    shown = getattr(AuditEventRow, column)
    for query in (select(shown), select(AuditEventRow.id).where(shown.is_not(None))):
        with pytest.raises(ProgrammingError, match="permission denied"):
            session.execute(query)
        session.rollback()


@pytest.mark.parametrize("scope", SCOPES)
def test_no_other_role_can_append(session: ScopedSession, ours: Owned, scope: MakeScope) -> None:
    session.enter(scope(ours))
    if session.scope == LedgerScope():
        return
    with pytest.raises(ProgrammingError, match="permission denied"):
        add_event(session, ours.tenant_id)


def test_change_and_its_event_are_committed_by_different_roles(
    session: ScopedSession, ours: Owned
) -> None:
    session.enter(TenantScope(ours.tenant_id))
    with session.as_ledger():
        event_id = add_event(session, ours.tenant_id)
    assert session.get(AuditEventRow, event_id) is not None
    with pytest.raises(ProgrammingError, match="permission denied"):
        add_event(session, ours.tenant_id)
