"""Applications of the product in this process, on servers of a test's own."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from unittest import mock
from uuid import uuid4

from flask import Flask

from tests.connections import dispose_engines_beside
from webapp.application import create_app
from webapp.audit.relay import pipeline
from webapp.db import migrate
from webapp.db.scopes import GlobalScope
from webapp.extensions import db
from webapp.http.errors import Conflict
from webapp.rules import service
from webapp.rules.schemas import RuleCreateSchema
from webapp.settings import Settings, read_settings
from webapp.stack import signing_keys
from webapp.stack.home import SIGNING_KEYS

DRAIN = 1.0
STAFF_ACCESS = {
    "name": "Staff access",
    "effect": "allow",
    "subjects": {"roles": ["support", "engineer", "auditor", "owner"]},
    "surfaces": ["*"],
}


@contextmanager
def application(environment: Mapping[str, str], drain: float = DRAIN) -> Iterator[Flask]:
    """Make an application for an environment, whose database it migrates.

    It signs as a web process does, though its login is that of commands.
    """
    key = {"JOURNAL_SIGNING_KEY": environment[SIGNING_KEYS["web"]]}
    with mock.patch.dict(os.environ, {**environment, **key}):
        settings = read_settings()
    migrate.upgrade(settings)
    signing_keys.register(environment)
    with application_of(settings, drain) as app:
        let_staff_access(app)
        yield app


def let_staff_access(app: Flask) -> None:
    """Let staff elevate to all surfaces that name their roles. Other rules have their own tests."""
    everywhere = GlobalScope(access_id=uuid4())
    with app.app_context(), db.scoped(everywhere):
        rule = RuleCreateSchema().load(STAFF_ACCESS)
        with suppress(Conflict):  # another application on this database has made the rule
            service.create_rule(everywhere, rule, "tests@example.org")
            db.session.commit()


@contextmanager
def application_of(settings: Settings, drain: float = DRAIN) -> Iterator[Flask]:
    """Make an application. At its end, its relay gets `drain` seconds to deliver its events."""
    app = create_app(settings)
    try:
        yield app
    finally:
        pipeline.stop(app, drain)
        app.extensions["celery"].close()
        dispose_engines_beside(app)
        with app.app_context():
            db.prepare_to_fork()  # closes all connections
