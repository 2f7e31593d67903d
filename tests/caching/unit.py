"""A unit of work of an application, and what the application keeps for its cache."""

from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask

from webapp.caching.state import Caching
from webapp.db.scopes import Scope
from webapp.extensions import db


def caching(app: Flask) -> Caching:
    state: Caching = app.extensions["sightline.caching"]
    return state


@contextmanager
def inside(app: Flask, scope: Scope) -> Iterator[None]:
    """One unit of work of an application, in a scope."""
    with app.app_context():
        db.session.enter(scope)
        yield
