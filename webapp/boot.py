"""What a server process checks before it forks those that take requests or tasks."""

import sys

import structlog
from celery.signals import worker_init
from flask import Flask
from sqlalchemy.exc import OperationalError

from webapp.db.roles import UnsafeLoginRole
from webapp.extensions import db

UNSAFE = 4
"""The exit code of a server whose login role is not as it must be."""

log = structlog.get_logger()


def check_database(app: Flask) -> None:
    """End the process when the login role could step around row level security.

    A database that is not there yet is no reason: the same check meets its first connection.
    """
    with app.app_context():
        try:
            db.reach()
        except UnsafeLoginRole as error:
            log.critical("unsafe_login_role", problem=str(error))
            sys.exit(UNSAFE)
        except OperationalError:
            log.warning("database_unavailable_at_start")
        finally:
            db.engine.dispose()  # or the processes forked from this one would share a connection


def check_database_in_worker(app: Flask) -> None:
    """Have this process check when it turns out to be a Celery worker."""

    def check(**_: object) -> None:
        check_database(app)

    worker_init.connect(check, weak=False)
