"""Settings that the login role gives itself do not reach the product's transactions."""

from collections.abc import Iterator

import pytest
from flask import Flask
from sqlalchemy import NullPool, create_engine, text

from tests.applications import application_of
from tests.factories import add_account, add_tenant


@pytest.fixture
def role_settings(app: Flask) -> Iterator[None]:
    """What would stop every transaction that changes something, or finds a table."""
    settings = (
        *("default_transaction_read_only = on", "search_path = pg_catalog"),
        *("default_transaction_isolation = 'serializable'", "lock_timeout = 1"),
    )
    engine = create_engine(app.extensions["settings"].database_url, poolclass=NullPool)
    with engine.begin() as login:
        for setting in settings:
            login.execute(text(f"alter role current_user set {setting}"))
    yield
    with engine.connect() as login:
        login.execute(text("set transaction read write"))
        login.execute(text("alter role current_user reset all"))
        login.commit()


@pytest.mark.usefixtures("role_settings")
def test_process_works_although_its_login_role_was_made_read_only(app: Flask) -> None:
    with application_of(app.extensions["settings"]) as other:
        tenant = add_tenant(other)
        admin = add_account(other, member_of={tenant.slug: "admin"})
        rule = {"name": "no", "effect": "deny", "surfaces": ["a.b"]}
        answer = other.test_client().post("/admin/api/rules", headers=admin.headers(), json=rule)
        assert answer.status_code == 201
