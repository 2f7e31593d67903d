"""What a server process checks before it takes its first request or task."""

import sys

import structlog
from celery.signals import worker_init
from flask import Flask
from sqlalchemy.exc import OperationalError

from webapp.db import UnsafeLoginRole
from webapp.extensions import db, reach_database

APP_LOAD_ERROR = 4
"""The exit code of a worker that makes gunicorn stop instead of starting another."""

log = structlog.get_logger()


def check_database(app: Flask) -> None:
    """End the process when the login role could step around row level security.

    A database that is not there yet is no reason: the same check meets its first connection.
    """
    with app.app_context():
        try:
            reach_database()
        except UnsafeLoginRole as error:
            log.critical("unsafe_login_role", problem=str(error))
            sys.exit(APP_LOAD_ERROR)
        except OperationalError:
            log.warning("database_unavailable_at_start")


def check_database_in_worker(app: Flask) -> None:
    """Have a Celery worker of this process check, before it forks those that run its tasks."""

    def check(**_: object) -> None:
        check_database(app)
        with app.app_context():
            db.engine.dispose()  # or its connection would be shared by all of them

    worker_init.connect(check, weak=False)
