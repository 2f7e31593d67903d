"""Tests that no other service and no other scope can use a service's stored answers."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from tests.isolation.rows import Owned
from tests.isolation.test_session import SCOPES, MakeScope, principal_scope
from webapp.db.base import Base
from webapp.db.scopes import PrincipalScope
from webapp.db.session import ScopedSession
from webapp.elevations.models import ElevationRow
from webapp.extensions import db

ELEVATIONS = Base.metadata.tables["elevations"]
ANSWER = '{"decision": "allowed"}'

Reading = Callable[[Session, UUID], object]
Writing = Callable[[Session, UUID], object]


def answer_of(service_id: UUID, key: str = "first") -> ElevationRow:
    return ElevationRow(service_id=service_id, key=key, digest=bytes(32), answer=ANSWER)


def stored(session: ScopedSession, service_id: UUID) -> list[tuple[object, ...]]:
    """Return all rows of a service, as the service itself sees them."""
    with db.scoped(PrincipalScope(service_id)):
        return [tuple(row) for row in session.execute(select(ELEVATIONS))]


@pytest.fixture
def services(session: ScopedSession, ours: Owned, theirs: Owned) -> tuple[UUID, UUID]:
    """Our service and another one, each with a stored answer."""
    for service_id in (ours.principal_id, theirs.principal_id):
        with db.scoped(PrincipalScope(service_id)):
            session.add(answer_of(service_id))
            session.commit()
    return ours.principal_id, theirs.principal_id


@pytest.fixture(
    params=[
        pytest.param(lambda us, _: PrincipalScope(us), id="a service"),
        pytest.param(lambda us, _: PrincipalScope(us, staff=True), id="a service with a role"),
        pytest.param(
            lambda us, theirs: PrincipalScope(us, frozenset({theirs.tenant_id})),
            id="an admin of their tenant",
        ),
    ]
)
def inside(
    request: pytest.FixtureRequest,
    session: ScopedSession,
    services: tuple[UUID, UUID],
    theirs: Owned,
) -> Iterator[ScopedSession]:
    """The session in our service's scope, in each variant of what that scope may see."""
    with db.scoped(request.param(services[0], theirs)):
        yield session


def by_key(session: Session, service_id: UUID) -> object:
    return session.get(ElevationRow, (service_id, "first"))


def by_core(session: Session, service_id: UUID) -> object:
    return session.scalar(select(ELEVATIONS.c.answer).where(ELEVATIONS.c.service_id == service_id))


def by_raw_sql(session: Session, service_id: UUID) -> object:
    statement = text("select answer from elevations where service_id = :id")
    return session.scalar(statement, {"id": service_id})


def locked(session: Session, service_id: UUID) -> object:
    query = select(ElevationRow).where(ElevationRow.service_id == service_id)
    return session.scalar(query.with_for_update())


@pytest.mark.parametrize("reading", [by_key, by_core, by_raw_sql, locked])
def test_service_reads_its_own_answers_only(
    inside: ScopedSession, services: tuple[UUID, UUID], reading: Reading
) -> None:
    us, them = services
    assert reading(inside, us)
    assert reading(inside, them) is None
    assert inside.scalar(select(func.count()).select_from(ElevationRow)) == 1


def add(session: Session, service_id: UUID) -> None:
    session.add(answer_of(service_id, "second"))
    session.flush()


def insert_directly(session: Session, service_id: UUID) -> None:
    session.execute(
        insert(ElevationRow).values(service_id=service_id, key="second", digest=bytes(32))
    )


def change(session: Session, service_id: UUID) -> None:
    session.execute(
        update(ElevationRow).where(ElevationRow.service_id == service_id).values(answer="{}")
    )


def change_all(session: Session, _: UUID) -> None:
    session.execute(update(ElevationRow).values(answer="{}"))


def upsert(session: Session, service_id: UUID) -> None:
    values = {"service_id": service_id, "key": "first", "digest": bytes(32)}
    session.execute(
        postgresql.insert(ElevationRow)
        .values(values)
        .on_conflict_do_update(index_elements=["service_id", "key"], set_={"answer": "{}"})
    )


WRITINGS: list[Writing] = [add, insert_directly, change, change_all, upsert]


def remove(session: Session, service_id: UUID) -> None:
    session.execute(delete(ElevationRow).where(ElevationRow.service_id == service_id))


def truncate(session: Session, _: UUID) -> None:
    session.execute(text("truncate elevations"))


def give_away(session: Session, service_id: UUID) -> None:
    session.execute(update(ElevationRow).values(service_id=service_id, key="given away"))


@pytest.mark.parametrize("writing", WRITINGS)
def test_service_writes_its_own_answers(
    inside: ScopedSession, services: tuple[UUID, UUID], writing: Writing
) -> None:
    us, _ = services
    before = stored(inside, us)
    writing(inside, us)
    inside.commit()
    assert stored(inside, us) != before


@pytest.mark.parametrize("attack", [*WRITINGS, remove, truncate, give_away])
def test_service_cannot_change_an_answer_of_another_service(
    inside: ScopedSession, services: tuple[UUID, UUID], attack: Writing
) -> None:
    _, them = services
    before = stored(inside, them)
    with suppress(DBAPIError, StaleDataError):
        attack(inside, them)
        inside.commit()
    assert stored(inside, them) == before


def test_stored_answer_cannot_be_removed(
    inside: ScopedSession, services: tuple[UUID, UUID]
) -> None:
    """Otherwise a repeated request would be decided again."""
    us, _ = services
    for attack in (remove, truncate):
        with pytest.raises(ProgrammingError, match="permission denied"):
            attack(inside, us)
        inside.rollback()


def test_key_that_another_service_has_used_is_free(
    inside: ScopedSession, services: tuple[UUID, UUID]
) -> None:
    """A conflict would reveal that another service has used this key."""
    us, them = services
    key = str(uuid4())
    with db.scoped(PrincipalScope(them)):
        inside.add(answer_of(them, key))
        inside.commit()
    inside.add(answer_of(us, key))
    inside.commit()
    assert len(stored(inside, us)) == 2


@pytest.mark.parametrize("scope", [scope for scope in SCOPES if scope is not principal_scope])
@pytest.mark.parametrize("reading", [by_key, by_raw_sql])
def test_no_other_scope_can_read_stored_answers(
    session: ScopedSession,
    services: tuple[UUID, UUID],
    ours: Owned,
    scope: MakeScope,
    reading: Reading,
) -> None:
    session.enter(scope(ours))
    with pytest.raises(ProgrammingError, match="permission denied"):
        reading(session, services[0])


def test_principal_scope_without_an_id_reads_no_answer(
    session: ScopedSession, services: tuple[UUID, UUID]
) -> None:
    with db.scoped(PrincipalScope(services[0])):
        session.execute(text("select set_config('sightline.principal_id', '', true)"))
        assert session.scalars(select(ElevationRow)).first() is None
