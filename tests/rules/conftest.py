"""Two tenants, and the people who use the rules' API: all new for each test."""

import pytest
from flask import Flask

from tests.factories import Account, MadeTenant, add_account, add_tenant


@pytest.fixture
def tenant(app: Flask) -> MadeTenant:
    return add_tenant(app)


@pytest.fixture
def admin(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "admin"})


@pytest.fixture
def member(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "member"})


@pytest.fixture
def outsider(app: Flask) -> Account:
    """The admin of another tenant."""
    return add_account(app, member_of={add_tenant(app).slug: "admin"})


@pytest.fixture
def owner(app: Flask) -> Account:
    return add_account(app, "owner")
