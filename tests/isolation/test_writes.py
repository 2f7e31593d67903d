"""Tests that in one tenant's scope each way to write changes own rows only."""

from collections.abc import Callable
from contextlib import closing, suppress
from uuid import UUID

import pytest
from sqlalchemy import delete, func, insert, literal, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.orm import Session, make_transient_to_detached
from sqlalchemy.orm.exc import StaleDataError

from tests.isolation.rows import (
    Owned,
    add_event,
    approval,
    grant,
    rule,
    rule_version,
    snapshot,
)
from webapp.db.base import Base
from webapp.db.scopes import TenantScope
from webapp.db.session import ScopedSession
from webapp.extensions import db
from webapp.grants.models import GrantRow
from webapp.identity.models import MembershipRow, Tenant
from webapp.rules.models import RuleRow, RuleVersionRow

Writing = Callable[[Session, Owned], object]
RULES = Base.metadata.tables["rules"]


def orm_insert(session: Session, owner: Owned) -> None:
    session.add(rule(owner.tenant_id))
    session.flush()


def core_insert(session: Session, owner: Owned) -> None:
    session.execute(insert(RULES).values(values_of(owner.tenant_id)))


def insert_many(session: Session, owner: Owned) -> None:
    session.execute(insert(RuleRow), [values_of(owner.tenant_id), values_of(owner.tenant_id)])


def insert_from_select(session: Session, owner: Owned) -> None:
    values = values_of(owner.tenant_id)
    chosen = select(*(literal(values[name], RULES.c[name].type) for name in values))
    session.execute(insert(RULES).from_select(list(values), chosen))


def upsert(session: Session, owner: Owned) -> None:
    values = values_of(owner.tenant_id) | {"id": owner.rule_id}
    statement = postgresql.insert(RULES).values(values)
    session.execute(
        statement.on_conflict_do_update(index_elements=["id"], set_={"name": "taken over"})
    )


def bulk_insert(session: Session, owner: Owned) -> None:
    session.bulk_insert_mappings(RuleRow.__mapper__, [values_of(owner.tenant_id)])


def core_update(session: Session, owner: Owned) -> None:
    session.execute(update(RULES).where(RULES.c.id == owner.rule_id).values(name="taken over"))


def orm_update(session: Session, owner: Owned) -> None:
    session.execute(update(RuleRow).where(RuleRow.id == owner.rule_id).values(name="taken over"))


def update_of_all(session: Session, _: Owned) -> None:
    session.execute(update(RuleRow).values(description="taken over"))


def bulk_update_by_key(session: Session, owner: Owned) -> None:
    session.execute(update(RuleRow), [{"id": owner.rule_id, "name": "taken over"}])


def bulk_update_mappings(session: Session, owner: Owned) -> None:
    session.bulk_update_mappings(RuleRow.__mapper__, [{"id": owner.rule_id, "name": "taken over"}])


def claimed_object(session: Session, owner: Owned) -> None:
    """Write an object that claims to have been loaded, as one from a cache would."""
    claimed = RuleRow(id=owner.rule_id)
    make_transient_to_detached(claimed)
    session.add(claimed)
    claimed.name = "taken over"
    session.flush()


def merged_object(session: Session, owner: Owned) -> None:
    session.merge(rule(owner.tenant_id, id=owner.rule_id, name="taken over"))
    session.flush()


def raw_update(session: Session, owner: Owned) -> None:
    statement = text("update rules set name = 'taken over' where id = :id")
    session.execute(statement, {"id": owner.rule_id})


def raw_update_by_cursor(session: Session, owner: Owned) -> None:
    with closing(session.connection().connection.cursor()) as cursor:
        cursor.execute("update rules set name = 'taken over' where id = %s", (str(owner.rule_id),))


def raw_merge(session: Session, owner: Owned) -> None:
    statement = text(
        "merge into rules using (select cast(:id as uuid) as id) wanted on rules.id = wanted.id"
        " when matched then update set name = 'taken over'"
    )
    session.execute(statement, {"id": owner.rule_id})


def update_in_a_cte(session: Session, owner: Owned) -> None:
    statement = text(
        "with changed as (update rules set name = 'taken over' where id = :id returning id)"
        " select id from changed"
    )
    session.execute(statement, {"id": owner.rule_id})


def add_history(session: Session, owner: Owned) -> None:
    session.add(rule_version(owner.tenant_id, owner.rule_id, 2))
    session.flush()


WRITINGS: list[Writing] = [
    orm_insert,
    core_insert,
    insert_many,
    insert_from_select,
    upsert,
    bulk_insert,
    core_update,
    orm_update,
    update_of_all,
    bulk_update_by_key,
    bulk_update_mappings,
    claimed_object,
    merged_object,
    raw_update,
    raw_update_by_cursor,
    raw_merge,
    update_in_a_cte,
    add_history,
]


def values_of(tenant_id: UUID) -> dict[str, object]:
    made = rule(tenant_id)
    return {name: value for name, value in vars(made).items() if not name.startswith("_")}


def delete_rule(session: Session, owner: Owned) -> None:
    session.execute(delete(RuleRow).where(RuleRow.id == owner.rule_id))


def delete_history(session: Session, owner: Owned) -> None:
    session.execute(delete(RuleVersionRow).where(RuleVersionRow.rule_id == owner.rule_id))


def delete_tenant(session: Session, owner: Owned) -> None:
    session.execute(delete(Tenant).where(Tenant.id == owner.tenant_id))


def rename_tenant(session: Session, owner: Owned) -> None:
    session.execute(update(Tenant).where(Tenant.id == owner.tenant_id).values(name="taken over"))


def raise_membership(session: Session, owner: Owned) -> None:
    session.execute(
        update(MembershipRow)
        .where(MembershipRow.tenant_id == owner.tenant_id)
        .values(role="member")
    )


def join_tenant(session: Session, owner: Owned) -> None:
    values = {"tenant_id": owner.tenant_id, "principal_id": owner.principal_id, "role": "admin"}
    session.execute(insert(MembershipRow).values(values))


def take_grant(session: Session, owner: Owned) -> None:
    session.add(grant(owner.tenant_id, owner.principal_id))
    session.flush()


def open_grant(session: Session, owner: Owned) -> None:
    session.execute(update(GrantRow).where(GrantRow.id == owner.grant_id).values(state="approved"))


def approve_grant(session: Session, owner: Owned) -> None:
    session.add(approval(owner.tenant_id, owner.grant_id, owner.principal_id))
    session.flush()


def write_event(session: Session, owner: Owned) -> None:
    add_event(session, owner.tenant_id)


def truncate(session: Session, _: Owned) -> None:
    session.execute(text("truncate rules cascade"))


def switch_policies_off(session: Session, owner: Owned) -> None:
    session.execute(text("set local row_security = off"))
    core_update(session, owner)


def disable_policies(session: Session, owner: Owned) -> None:
    session.execute(text("alter table rules disable row level security"))
    core_update(session, owner)


ATTACKS: list[Writing] = [
    *WRITINGS,
    delete_rule,
    delete_history,
    delete_tenant,
    rename_tenant,
    raise_membership,
    join_tenant,
    take_grant,
    open_grant,
    approve_grant,
    write_event,
    truncate,
    switch_policies_off,
    disable_policies,
]


@pytest.mark.parametrize("writing", WRITINGS)
def test_write_changes_the_own_tenants_rows(
    inside: ScopedSession, ours: Owned, writing: Writing
) -> None:
    before = snapshot(inside, ours)
    writing(inside, ours)
    inside.commit()
    assert snapshot(inside, ours) != before


@pytest.mark.parametrize("attack", ATTACKS)
def test_write_changes_no_row_of_another_tenant(
    inside: ScopedSession, theirs: Owned, attack: Writing
) -> None:
    before = snapshot(inside, theirs)
    with suppress(DBAPIError, StaleDataError):
        attack(inside, theirs)
        inside.commit()
    assert snapshot(inside, theirs) == before


@pytest.mark.parametrize("attack", ATTACKS)
def test_write_changes_no_row_of_another_tenant_after_a_commit_and_in_a_savepoint(
    inside: ScopedSession, theirs: Owned, attack: Writing
) -> None:
    before = snapshot(inside, theirs)
    inside.scalar(select(1))
    inside.commit()
    with suppress(DBAPIError, StaleDataError):
        with inside.begin_nested():
            attack(inside, theirs)
        inside.commit()
    assert snapshot(inside, theirs) == before


def test_own_row_cannot_be_given_to_another_tenant(
    inside: ScopedSession, ours: Owned, theirs: Owned
) -> None:
    give = update(RuleRow).where(RuleRow.id == ours.rule_id).values(tenant_id=theirs.tenant_id)
    with pytest.raises(ProgrammingError, match="row-level security"):
        inside.execute(give)


def test_own_row_cannot_be_made_the_platforms(inside: ScopedSession, ours: Owned) -> None:
    give = update(RuleRow).where(RuleRow.id == ours.rule_id).values(tenant_id=None)
    with pytest.raises(ProgrammingError, match="row-level security"):
        inside.execute(give)


def test_rows_of_another_tenant_cannot_be_copied(
    inside: ScopedSession, ours: Owned, theirs: Owned
) -> None:
    before = snapshot(inside, ours)
    names = [name for name in values_of(ours.tenant_id) if name not in ("id", "tenant_id")]
    copied = select(
        func.gen_random_uuid(), literal(ours.tenant_id), *(RULES.c[name] for name in names)
    ).where(RULES.c.id == theirs.rule_id)
    inside.execute(insert(RULES).from_select(["id", "tenant_id", *names], copied))
    inside.commit()
    assert snapshot(inside, ours) == before


def refusal(session: ScopedSession, row: object) -> tuple[str, str | None]:
    """Return the error code and the constraint with which the database refuses a row."""
    session.add(row)
    with pytest.raises(IntegrityError) as caught:
        session.flush()
    session.rollback()
    cause = caught.value.orig
    code: str = getattr(cause, "pgcode", "")
    constraint: str | None = getattr(getattr(cause, "diag", None), "constraint_name", None)
    return code, constraint


@pytest.mark.parametrize("version", [1, 2])
def test_reference_to_another_tenants_row_is_refused_like_one_to_a_missing_row(
    inside: ScopedSession, ours: Owned, theirs: Owned, missing_id: UUID, version: int
) -> None:
    to_theirs = refusal(inside, rule_version(ours.tenant_id, theirs.rule_id, version))
    to_nothing = refusal(inside, rule_version(ours.tenant_id, missing_id, version))
    assert to_theirs == to_nothing


def test_same_name_in_two_tenants_is_no_conflict(
    inside: ScopedSession, ours: Owned, theirs: Owned
) -> None:
    with db.scoped(TenantScope(theirs.tenant_id)):
        name = inside.get_one(RuleRow, theirs.rule_id).name
    inside.add(rule(ours.tenant_id, name=name))
    inside.flush()
    assert refusal(inside, rule(ours.tenant_id, name=inside.get_one(RuleRow, ours.rule_id).name))


def test_view_writes_the_own_tenants_rows_only(
    inside: ScopedSession, ours: Owned, theirs: Owned, rules_view: str
) -> None:
    before = snapshot(inside, theirs)
    changed = inside.execute(text(f"update {rules_view} set name = 'taken over'"))  # noqa: S608 - the fixture's name
    assert getattr(changed, "rowcount", None) == 1
    inside.commit()
    assert snapshot(inside, theirs) == before
