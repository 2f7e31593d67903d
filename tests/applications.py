"""The product in this process, bound to servers of a test's own."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

from flask import Flask

from webapp import create_app, migrate
from webapp.audit import pipeline
from webapp.extensions import db
from webapp.settings import Settings, read_settings

DRAIN = 1.0


@contextmanager
def application(environment: Mapping[str, str], drain: float = DRAIN) -> Iterator[Flask]:
    """By what its environment says, on a database that it migrates."""
    with mock.patch.dict(os.environ, environment):
        settings = read_settings()
    migrate.upgrade(settings)
    with application_of(settings, drain) as app:
        yield app


@contextmanager
def application_of(settings: Settings, drain: float = DRAIN) -> Iterator[Flask]:
    """Its relay gets `drain` seconds at the end to bring away what it holds."""
    app = create_app(settings)
    try:
        yield app
    finally:
        pipeline.stop(app, drain)
        app.extensions["celery"].close()
        with app.app_context():
            db.engine.dispose()
