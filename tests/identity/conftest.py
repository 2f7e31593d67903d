"""The application twice, as two processes are: each with its own memory and connections."""

from collections.abc import Callable, Iterator

import pytest
from click.testing import Result
from flask import Flask

from webapp import create_app
from webapp.extensions import db

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def other_app(app: Flask) -> Iterator[Flask]:
    other = create_app(app.extensions["settings"])
    yield other
    with other.app_context():
        db.engine.dispose()


@pytest.fixture
def run(app: Flask) -> Run:
    """Runs a `flask` command."""

    def command(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(args=arguments)

    return command
