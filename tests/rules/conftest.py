"""Fixtures: a member of the tenant, new for each test."""

import pytest
from flask import Flask

from tests.factories import Account, MadeTenant, add_account


@pytest.fixture
def member(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "member"})
