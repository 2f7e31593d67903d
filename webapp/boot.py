"""The checks that a server makes before it forks the processes that take requests or tasks."""

import sys

import structlog
from celery.signals import worker_init
from flask import Flask
from sqlalchemy.exc import OperationalError

from webapp.db.deadline import UnsupportedServer
from webapp.db.roles import Process, UnsafeLoginRole
from webapp.extensions import db
from webapp.ledger.sealing.keys import missing_settings
from webapp.settings import Settings, SettingsError, current_settings

UNSAFE = 4
"""The exit code of a server whose login role could bypass row level security, or do too much, or
whose PostgreSQL is too old to keep it from that."""

log = structlog.get_logger()


def check_database(app: Flask, process: Process) -> None:
    """End the process when the login role could bypass row level security.

    Where it is deployed, the role may not become more than this kind of process needs either.

    An unreachable database does not end it: the first connection runs the same check.
    """
    with app.app_context():
        if current_settings().deployed:
            db.refuse_logins_beyond(process)
        try:
            db.reach()
        except UnsafeLoginRole as error:
            log.critical("unsafe_login_role", problem=str(error))
            sys.exit(UNSAFE)
        except OperationalError as error:
            if isinstance(error.orig, UnsupportedServer):
                log.critical("unsupported_database", problem=str(error.orig))
                sys.exit(UNSAFE)
            log.warning("database_unavailable_at_start")
        finally:
            db.prepare_to_fork()


def check_sealing(app: Flask) -> None:
    """End a deployed worker that lacks what it seals the log with."""
    settings: Settings = app.extensions["settings"]
    problems = missing_settings(settings)
    if settings.deployed and problems:
        sys.exit(str(SettingsError(problems)))


def check_signing_key(app: Flask) -> None:
    """End a process that has no key to sign its events with."""
    settings: Settings = app.extensions["settings"]
    try:
        settings.signing_key  # noqa: B018 - it raises
    except SettingsError as error:
        sys.exit(str(error))


def check_in_worker(app: Flask) -> None:
    """Run the checks if this process starts as a Celery worker."""

    def check(**_: object) -> None:
        check_signing_key(app)
        check_sealing(app)
        check_database(app, "worker")

    worker_init.connect(check, weak=False)
