"""Fixtures: a tenant's rule that requires an approval, and a request for it, new for each test."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.factories import Account, MadeTenant
from tests.grants.calls import add_request, require_approval
from webapp.application import create_app
from webapp.audit.relay import pipeline
from webapp.extensions import db

STOPPING = 10.0


@pytest.fixture
def rule(client: FlaskClient, admin: Account) -> dict[str, Any]:
    """The tenant's rule: approval by its admins, for an hour at most."""
    return require_approval(client, admin.headers(), max_minutes=60)


@pytest.fixture
def request_(
    client: FlaskClient, support: Account, tenant: MadeTenant, rule: dict[str, Any]
) -> dict[str, Any]:
    """A request by `support`."""
    assert rule
    return add_request(client, support, tenant)


@pytest.fixture(scope="session")
def other_app(app: Flask) -> Iterator[Flask]:
    """A second application with its own memory and connections, like one of another process."""
    other = create_app(app.extensions["settings"])
    yield other
    pipeline.stop(other, STOPPING)
    other.extensions["celery"].close()
    with other.app_context():
        db.engine.dispose()
