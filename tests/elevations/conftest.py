"""Fixtures: a service, and rules for a surface that no other test uses."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.factories import INCIDENT, Account, add_account
from tests.rules.calls import add_rule

MakeRule = Callable[..., UUID]


@pytest.fixture
def service(app: Flask) -> Account:
    return add_account(app, "service")


@pytest.fixture
def surface() -> str:
    """A surface that no other test uses."""
    return f"shop.s{uuid4().hex}.read"


@pytest.fixture
def make_rule(app: Flask, client: FlaskClient, surface: str) -> MakeRule:
    """Make a rule for that surface, of the platform or of the tenant of `by`."""
    owner = add_account(app, "owner")

    def make(effect: str, by: Account | None = None, **changes: Any) -> UUID:
        headers = by.headers() if by else owner.headers("global", INCIDENT)
        name = f"{effect} {uuid4().hex}"
        rule = {"effect": effect, "surfaces": [surface], **changes}
        return UUID(add_rule(client, headers, name, **rule)["id"])

    return make
