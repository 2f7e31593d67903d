"""Tests of the principal's scope: own grants, those of administered tenants, and all for staff."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError, ProgrammingError

from tests.isolation.rows import Owned, approval, grant
from webapp.db.base import Base
from webapp.db.scopes import DirectoryScope, MaintenanceScope, PolicyScope, PrincipalScope
from webapp.db.session import ScopedSession
from webapp.extensions import db
from webapp.grants.models import GrantApprovalRow, GrantRow
from webapp.identity.models import PrincipalRow

MODELS: list[type[Base]] = [GrantRow, GrantApprovalRow]
PRINCIPAL_ID = UUID(int=1)


def admin_of(owned: Owned) -> PrincipalScope:
    return PrincipalScope(PRINCIPAL_ID, frozenset({owned.tenant_id}))


@pytest.fixture
def global_grant(session: ScopedSession, theirs: Owned) -> UUID:
    """A grant for all tenants, held by a member of the other tenant."""
    with db.scoped(MaintenanceScope()):
        made = grant(None, theirs.principal_id)
        grant_id = made.id
        session.add(made)
        session.commit()
    return grant_id


@pytest.mark.parametrize("model", MODELS)
def test_admin_sees_grants_of_the_own_tenant_only(
    session: ScopedSession, ours: Owned, theirs: Owned, global_grant: UUID, model: type[Base]
) -> None:
    with db.scoped(admin_of(ours)):
        assert session.get(model, ours.key(model)) is not None
        assert session.get(model, theirs.key(model)) is None
        assert session.scalar(select(func.count()).select_from(model)) == 1
        assert session.get(GrantRow, global_grant) is None


def test_holder_sees_own_grants_only(
    session: ScopedSession, ours: Owned, theirs: Owned, global_grant: UUID
) -> None:
    assert ours
    with db.scoped(PrincipalScope(theirs.principal_id)):
        assert set(session.scalars(select(GrantRow.id))) == {theirs.grant_id, global_grant}


def test_principal_without_grants_and_roles_sees_nothing(
    session: ScopedSession, ours: Owned, global_grant: UUID
) -> None:
    assert ours
    assert global_grant
    with db.scoped(PrincipalScope(PRINCIPAL_ID)):
        for model in MODELS:
            assert session.scalars(select(model)).first() is None


@pytest.mark.parametrize("model", MODELS)
def test_staff_sees_all_grants(
    session: ScopedSession, ours: Owned, theirs: Owned, global_grant: UUID, model: type[Base]
) -> None:
    with db.scoped(PrincipalScope(PRINCIPAL_ID, staff=True)):
        for owned in (ours, theirs):
            assert session.get(model, owned.key(model)) is not None
        assert session.get(GrantRow, global_grant) is not None


def test_admin_changes_grants_of_the_own_tenant_only(
    session: ScopedSession, ours: Owned, theirs: Owned, global_grant: UUID
) -> None:
    with db.scoped(admin_of(ours)):
        for grant_id, changed in ((ours.grant_id, 1), (theirs.grant_id, 0), (global_grant, 0)):
            statement = update(GrantRow).where(GrantRow.id == grant_id).values(state="approved")
            assert getattr(session.execute(statement), "rowcount", None) == changed


@pytest.mark.parametrize("of_all_tenants", [False, True])
def test_admin_cannot_make_or_approve_a_grant_of_another_tenant(
    session: ScopedSession, ours: Owned, theirs: Owned, global_grant: UUID, of_all_tenants: bool
) -> None:
    tenant_id = None if of_all_tenants else theirs.tenant_id
    grant_id = global_grant if of_all_tenants else theirs.grant_id
    for row in (
        grant(tenant_id, ours.principal_id),
        approval(tenant_id, grant_id, ours.principal_id),
    ):
        with db.scoped(admin_of(ours)):
            session.add(row)
            with pytest.raises(ProgrammingError, match="row-level security"):
                session.flush()


def test_approval_must_have_the_tenant_of_its_grant(
    session: ScopedSession, ours: Owned, theirs: Owned
) -> None:
    """Otherwise an admin could approve another tenant's grant in the own tenant's name."""
    with db.scoped(admin_of(ours)):
        session.add(approval(ours.tenant_id, theirs.grant_id, ours.principal_id))
        with pytest.raises(DBAPIError, match="foreign key"):
            session.flush()


def test_grants_and_approvals_cannot_be_deleted_or_rewritten(
    session: ScopedSession, ours: Owned
) -> None:
    for statement in (
        f"delete from grants where id = '{ours.grant_id}'",  # noqa: S608 - a UUID
        f"delete from grant_approvals where id = '{ours.approval_id}'",  # noqa: S608 - a UUID
        f"update grant_approvals set roles = '{{owner}}' where id = '{ours.approval_id}'",  # noqa: S608 - a UUID
    ):
        for scope in (admin_of(ours), MaintenanceScope(), PolicyScope()):
            with db.scoped(scope), pytest.raises(ProgrammingError, match="denied"):
                session.execute(text(statement))


def test_policy_scope_reads_grants_and_changes_none(session: ScopedSession, ours: Owned) -> None:
    with db.scoped(PolicyScope()):
        assert session.get(GrantRow, ours.grant_id) is not None
        with pytest.raises(ProgrammingError, match="denied"):
            session.execute(update(GrantRow).values(state="approved"))


def test_identity_scope_reads_no_grant(session: ScopedSession, ours: Owned) -> None:
    assert ours
    with db.scoped(DirectoryScope()):
        session.add(PrincipalRow(email=f"{uuid4().hex}@example.org"))
        session.flush()
        with pytest.raises(ProgrammingError, match="denied"):
            db.session.scalars(select(GrantRow)).all()
