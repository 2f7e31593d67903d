"""What is in the ledger stays there: for every role of the application, and for its owner too."""

import pytest
from sqlalchemy import Engine, Executable, delete, select, text, update
from sqlalchemy.exc import DBAPIError, ProgrammingError

from tests.isolation.rows import Owned, add_event
from tests.isolation.test_session import SCOPES, MakeScope
from webapp.audit.models import AuditEventRow
from webapp.db import ScopedSession
from webapp.scope.scopes import LedgerScope, TenantScope

REWRITINGS: dict[str, Executable] = {
    "update": update(AuditEventRow).values(outcome="failed"),
    "update one": text("update audit_events set event = '{}' where outcome = 'served'"),
    "delete": delete(AuditEventRow),
    "truncate": text("truncate audit_events"),
    "upsert": text(
        "insert into audit_events select * from audit_events"
        " on conflict (id) do update set outcome = 'failed'"
    ),
    "disable the trigger": text("alter table audit_events disable trigger all"),
    "replicate": text("set local session_replication_role = replica"),
    "drop": text("drop table audit_events"),
}


@pytest.mark.parametrize("rewriting", REWRITINGS)
@pytest.mark.parametrize("scope", SCOPES)
def test_no_scope_rewrites_it(
    session: ScopedSession, ours: Owned, scope: MakeScope, rewriting: str
) -> None:
    session.enter(scope(ours))
    with pytest.raises(ProgrammingError, match="permission denied|must be owner"):
        session.execute(REWRITINGS[rewriting])


@pytest.mark.parametrize("rewriting", ["update", "delete", "truncate"])
def test_the_login_role_does_not_rewrite_it(inside: ScopedSession, rewriting: str) -> None:
    inside.execute(text("set local role none"))
    with pytest.raises(ProgrammingError, match="permission denied"):
        inside.execute(REWRITINGS[rewriting])


@pytest.mark.parametrize(
    "statement", ["update audit_events set outcome = 'failed'", "delete from audit_events"]
)
def test_its_owner_does_not_rewrite_it_either(
    owner_engine: Engine, ours: Owned, statement: str
) -> None:
    """With row level security lifted for the occasion, what is left is the trigger."""
    with owner_engine.connect() as connection:
        connection.execute(text("alter table audit_events no force row level security"))
        with pytest.raises(DBAPIError):
            connection.execute(text(f"{statement} where id = :id"), {"id": ours.event_id})


def test_its_owner_does_not_truncate_it(owner_engine: Engine) -> None:
    with owner_engine.connect() as connection, pytest.raises(DBAPIError):
        connection.execute(text("truncate audit_events"))


def test_the_ledgers_role_appends_and_sees_nothing(session: ScopedSession, ours: Owned) -> None:
    with session.scoped(LedgerScope()):
        event_id = add_event(session, ours.tenant_id)
        session.commit()
        with pytest.raises(ProgrammingError, match="permission denied"):
            session.scalar(select(AuditEventRow.id))
    with session.scoped(TenantScope(ours.tenant_id)):
        assert session.get(AuditEventRow, event_id) is not None


@pytest.mark.parametrize("scope", SCOPES[:3])
def test_no_other_role_appends(session: ScopedSession, ours: Owned, scope: MakeScope) -> None:
    session.enter(scope(ours))
    with pytest.raises(ProgrammingError, match="permission denied"):
        add_event(session, ours.tenant_id)
