"""A unit of work of an application, and the application's cache state."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep

from flask import Flask

from webapp.caching.generations import REUSE
from webapp.caching.state import Caching, current_caching
from webapp.db.scopes import Scope
from webapp.extensions import db


def caching(app: Flask) -> Caching:
    with app.app_context():
        return current_caching()


@contextmanager
def inside(app: Flask, scope: Scope) -> Iterator[None]:
    """Run one unit of work of an application, in a scope."""
    with app.app_context():
        db.session.enter(scope)
        yield


def outlast_reuse() -> None:
    """Wait until no process uses a generation that it has read before."""
    sleep(REUSE)
