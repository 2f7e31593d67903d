"""Two tenants with equal objects, and people of the platform."""

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from flask import Flask

from tests.audit.receipts import committed, receipt
from tests.factories import Account, add_account, add_tenant
from tests.grants.calls import add_grant
from tests.http.routes import TOKENS, Place
from tests.rules.calls import PATH, draft


@pytest.fixture(scope="session")
def make_place(app: Flask, worker: None) -> Callable[[], Place]:
    def make() -> Place:
        tenant = add_tenant(app)
        admin = add_account(app, member_of={tenant.slug: "admin"})
        made = app.test_client().post(PATH, headers=admin.headers(), json=draft())
        (event_id,) = receipt(made)
        committed(app, event_id)
        member = add_account(app, member_of={tenant.slug: "member"})
        draft_of_token = {"user": member.email, "name": "probed"}
        minted = app.test_client().post(TOKENS, headers=admin.headers(), json=draft_of_token)
        return Place(
            tenant,
            admin,
            member=member,
            ids={
                "rule_id": UUID(made.get_json()["id"]),
                "event_id": event_id,
                "grant_id": add_grant(app, tenant.id, admin.id),
                "simulation_id": uuid4(),
                "tenant_id": tenant.id,
                "member_id": member.id,
                "token_id": UUID(minted.get_json()["id"]),
            },
        )

    return make


@pytest.fixture(scope="module")
def here(make_place: Callable[[], Place]) -> Place:
    """The tenant of the people who ask. Its objects are not changed."""
    return make_place()


@pytest.fixture(scope="module")
def elsewhere(make_place: Callable[[], Place]) -> Place:
    """Another tenant. Its objects are not changed."""
    return make_place()


@pytest.fixture
def new(make_place: Callable[[], Place]) -> Place:
    """A tenant whose objects may be changed."""
    return make_place()


@pytest.fixture
def auditor(app: Flask) -> Account:
    return add_account(app, "auditor")
