"""Fixtures of two tenants with the same kinds of rows, made in the application's own scopes."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from flask import Flask
from sqlalchemy import Engine, NullPool, create_engine, text
from uuid_utils.compat import uuid7

from tests.isolation.rows import Owned, add_rows
from webapp.db.scopes import TenantScope
from webapp.db.session import ScopedSession
from webapp.extensions import db


@pytest.fixture
def session(app: Flask) -> Iterator[ScopedSession]:
    """The application's session, in no scope yet."""
    with app.app_context():
        yield db.session


@pytest.fixture
def ours(session: ScopedSession) -> Owned:
    return add_rows(session, f"ours-{uuid4().hex}")


@pytest.fixture
def theirs(session: ScopedSession) -> Owned:
    return add_rows(session, f"theirs-{uuid4().hex}")


@pytest.fixture
def inside(session: ScopedSession, ours: Owned, theirs: Owned) -> ScopedSession:
    """The session in our tenant's scope; another tenant's rows exist."""
    assert ours.tenant_id != theirs.tenant_id
    session.enter(TenantScope(ours.tenant_id))
    return session


@pytest.fixture
def missing_id() -> UUID:
    """An id that no row has."""
    return uuid7()


@pytest.fixture
def owner_engine(app: Flask) -> Engine:
    """An engine that connects as the tables' owner, who has rights that the application has not."""
    url = app.extensions["settings"].database_owner_url
    return create_engine(url, poolclass=NullPool, connect_args={"options": "-c lock_timeout=180s"})


@pytest.fixture
def rules_view(inside: ScopedSession, owner_engine: Engine) -> Iterator[str]:
    """A view over the rules that is read with the rights of the reader."""
    name = f"rules_view_{uuid4().hex}"
    with owner_engine.begin() as connection:
        options = "with (security_invoker = true)"
        connection.execute(text(f"create view {name} {options} as table rules"))
        connection.execute(text(f"grant select, update on {name} to sightline_tenant"))
    yield name
    inside.close()  # an open transaction that has read the view would block its removal
    with owner_engine.begin() as connection:
        connection.execute(text(f"drop view {name}"))
