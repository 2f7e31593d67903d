"""`flask doctor`: is everything there that the service and its guarantees rest on?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import Celery
from flask import Flask, current_app

from webapp import migrate
from webapp.db import UnsafeLoginRole
from webapp.extensions import current_settings, reach_database
from webapp.observability.health import PROBES
from webapp.observability.probes import look
from webapp.scope.lint import check_database

MAX_BACKLOG = 100


@dataclass(frozen=True)
class Diagnosis:
    check: str
    ok: bool
    detail: str


def diagnose(app: Flask) -> list[Diagnosis]:
    """Every check, none of them able to stop the others."""
    found = [
        Diagnosis(name, finding.ok, finding.detail)
        for name, finding in look(app.extensions[PROBES]).items()
    ]
    checks: dict[str, Callable[[], str]] = {
        "login role owns nothing": _check_login_role,
        "tenant tables are closed": _check_tables,
        "models match the database": _check_drift,
        "workers take audit events": _check_backlog,
    }
    return [*found, *(_run(name, check) for name, check in checks.items())]


def _run(name: str, check: Callable[[], str]) -> Diagnosis:
    """A check returns what is wrong, or nothing."""
    try:
        problem = check()
    except migrate.NotMigrated as error:
        problem = str(error)
    except Exception as error:  # whatever it is, the next check still has something to say
        problem = type(error).__name__
    return Diagnosis(name, not problem, problem or "ok")


def _check_login_role() -> str:
    try:
        reach_database()
    except UnsafeLoginRole as error:
        return str(error)
    return ""


def _check_tables() -> str:
    return "; ".join(map(str, check_database(current_settings())))


def _check_drift() -> str:
    drift = migrate.check(current_settings())
    return "run `flask db check`" if drift else ""


def _check_backlog() -> str:
    celery: Celery = current_app.extensions["celery"]
    with celery.connection_for_read() as broker:
        channel: Any = broker.default_channel  # its type has only what all transports share
        try:
            waiting = channel.queue_declare("audit", passive=True).message_count
        except broker.channel_errors:  # Redis has no queue where nothing waits
            return ""
    return f"{waiting} batches wait in the broker" if waiting > MAX_BACKLOG else ""
