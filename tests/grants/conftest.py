"""A tenant that wants to be asked, and the people who ask and decide: all new for each test."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.factories import Account, MadeTenant
from tests.grants.calls import asked, want_approval
from webapp import create_app
from webapp.audit.relay import pipeline
from webapp.extensions import db

STOPPING = 10.0


@pytest.fixture
def rule(client: FlaskClient, admin: Account) -> dict[str, Any]:
    """The tenant's own: an hour at most, approved by its admins."""
    return want_approval(client, admin.headers(), max_minutes=60)


@pytest.fixture
def request_(
    client: FlaskClient, support: Account, tenant: MadeTenant, rule: dict[str, Any]
) -> dict[str, Any]:
    """What support has asked for."""
    assert rule
    return asked(client, support, tenant)


@pytest.fixture(scope="session")
def other_app(app: Flask) -> Iterator[Flask]:
    """The application of another process, with its own memory and connections."""
    other = create_app(app.extensions["settings"])
    yield other
    pipeline.stop(other, STOPPING)
    other.extensions["celery"].close()
    with other.app_context():
        db.engine.dispose()
