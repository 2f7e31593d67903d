"""Empty databases, each for one seed."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock
from uuid import uuid4

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import make_url

from webapp.application import create_app
from webapp.db import migrate
from webapp.extensions import db
from webapp.settings import read_settings
from webapp.stack import signing_keys
from webapp.stack.home import LOGIN_URLS, Stack, open_stack, running


@dataclass(frozen=True)
class Place:
    """An application on a migrated database without rows, and the directory of its files."""

    app: Flask
    home: Path
    environment: dict[str, str]

    def run(self, *arguments: str) -> Result:
        return self.app.test_cli_runner().invoke(args=["demo", *arguments])


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = open_stack(tmp_path_factory.mktemp("demo"), durable=False)
    with running(made):
        yield made


@pytest.fixture
def place(stack: Stack, tmp_path: Path) -> Iterator[Place]:
    name = f"demo_{uuid4().hex}"
    stack.postgres.ensure_database(stack.owner_password, name)
    stack.redis.client.flushdb()
    home = tmp_path / "home"
    environment = {**stack.environment, "SIGHTLINE_HOME": str(home)}
    for variable in ("DATABASE_URL", "DATABASE_OWNER_URL", *set(LOGIN_URLS.values())):
        url = make_url(environment[variable]).set(database=name)
        environment[variable] = url.render_as_string(hide_password=False)
    with mock.patch.dict(os.environ, environment):
        settings = read_settings()
    migrate.upgrade(settings)
    signing_keys.register(environment)
    app = create_app(settings)
    yield Place(app, home, environment)
    with app.app_context():
        db.engine.dispose()
