"""Tasks that are sent once the transaction that made work for them has committed.

Such a task only wakes a worker: the work stands in a table, and beat sends the task too. So nothing
is lost where the broker cannot be reached.
"""

from threading import Lock, Thread, Timer

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


def send_soon(task: str, *arguments: str) -> None:
    """Send a task, and do not wait for the broker."""
    celery: Celery = current_app.extensions["celery"]
    Thread(target=_send, args=[celery, task, *arguments], name=task).start()


def send_once(task: str, within: float) -> None:
    """Send a task without arguments within so many seconds: once, however often it is asked for."""
    celery: Celery = current_app.extensions["celery"]
    with _lock:
        if task in _waiting:
            return
        _waiting.add(task)

    def send() -> None:
        with _lock:
            _waiting.discard(task)
        _send(celery, task)

    timer = Timer(within, send)
    timer.daemon = True
    timer.start()


_lock = Lock()
_waiting: set[str] = set()
"""The tasks that this process will send within a moment."""


def _send(celery: Celery, task: str, *arguments: str) -> None:
    try:
        celery.send_task(task, args=arguments, ignore_result=True, retry=False)
    except Exception as error:  # whatever fails here, beat sends it again
        log.warning("task_not_sent_soon", task=task, problem=type(error).__name__)


@event.listens_for(ScopedSession, "after_commit")
def _send_committed(session: ScopedSession) -> None:
    if not session.in_nested_transaction():
        for task in session.info.pop(_TASKS, ()):
            send_soon(task)


@event.listens_for(ScopedSession, "after_rollback")
def _drop_rolled_back(session: ScopedSession) -> None:
    session.info.pop(_TASKS, None)
