"""A second application, like a second process: each has its own memory and connections."""

from collections.abc import Iterator

import pytest
from flask import Flask

from webapp.application import create_app
from webapp.extensions import db


@pytest.fixture(scope="session")
def other_app(app: Flask) -> Iterator[Flask]:
    other = create_app(app.extensions["settings"])
    yield other
    with other.app_context():
        db.engine.dispose()
