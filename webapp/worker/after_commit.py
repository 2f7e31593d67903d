"""Tasks that are sent once the transaction that made work for them has committed.

Such a task only wakes a worker: the work stands in a table, and beat sends the task too. So nothing
is lost where the broker cannot be reached.
"""

from threading import Thread

import structlog
from celery import Celery
from flask import current_app
from sqlalchemy import event

from webapp.db.session import ScopedSession

_TASKS = "worker.after_commit"
"""Key in a session's info: the names of the tasks."""

log = structlog.get_logger()


def send_after_commit(session: ScopedSession, task: str) -> None:
    """Send a task without arguments when the session's transaction commits."""
    session.info.setdefault(_TASKS, set()).add(task)


def send_soon(task: str) -> None:
    """Send a task without arguments, and do not wait for the broker."""
    celery: Celery = current_app.extensions["celery"]

    def send() -> None:
        try:
            celery.send_task(task, ignore_result=True, retry=False)
        except Exception as error:  # whatever fails here, beat sends it again
            log.warning("task_not_sent_soon", task=task, problem=type(error).__name__)

    Thread(target=send, name=task).start()


@event.listens_for(ScopedSession, "after_commit")
def _send_committed(session: ScopedSession) -> None:
    if not session.in_nested_transaction():
        for task in session.info.pop(_TASKS, ()):
            send_soon(task)


@event.listens_for(ScopedSession, "after_rollback")
def _drop_rolled_back(session: ScopedSession) -> None:
    session.info.pop(_TASKS, None)
