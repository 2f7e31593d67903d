"""The product on servers of its own: migrated once a run, used by every test."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.processes import Web, run_web, run_worker
from webapp import create_app, migrate
from webapp.extensions import db
from webapp.settings import read_settings
from webapp.stack.home import open_stack, running

SETTINGS = {
    *("SIGHTLINE_ENV", "SIGHTLINE_HOME", "SECRET_KEY", "AUDIT_MAC_KEY", "PORT", "WEB_CONCURRENCY"),
    *("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "CELERY_BROKER_URL"),
    *("AUDIT_TIMEOUT", "CACHE_TTL", "CACHE_TIMEOUT", "PROMETHEUS_MULTIPROC_DIR"),
}


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_caller() -> Iterator[None]:
    """`make test` passes whatever the shell that it is called from has set."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    with mock.patch.dict(os.environ, kept, clear=True):
        yield


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that lead a process of the product to this run's servers."""
    home = tmp_path_factory.mktemp("home")
    stack = open_stack(home, durable=False)
    with running(stack):
        yield {"SIGHTLINE_HOME": str(home), **stack.environment}


@pytest.fixture(scope="session")
def app(environment: dict[str, str]) -> Iterator[Flask]:
    with mock.patch.dict(os.environ, environment):
        settings = read_settings()
    migrate.upgrade(settings)
    app = create_app(settings)
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(scope="session")
def worker(
    app: Flask, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A real Celery worker."""
    assert app
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    with run_worker(environment, log):
        yield


@pytest.fixture(scope="session")
def web(
    worker: None, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """A real gunicorn, with the worker beside it."""
    log: Path = tmp_path_factory.mktemp("web") / "web.log"
    with run_web(environment, log) as running_web:
        yield running_web
