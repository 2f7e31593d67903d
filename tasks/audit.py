"""Tasks that commit audit events, and that make the ledger's partitions."""

from base64 import b64decode
from datetime import UTC, datetime
from time import time

from celery import Task, shared_task

from webapp.audit import append
from webapp.audit.relay.pipeline import COMMIT_TASK
from webapp.audit.split import split
from webapp.db.scopes import LedgerScope
from webapp.extensions import db
from webapp.ledger.sealing.sealer import SEAL_TASK
from webapp.observability.traces import Stage, current_traces
from webapp.worker.after_commit import send_once
from webapp.worker.consumer import ASIDE_TASK
from webapp.worker.delivery import put_back
from webapp.worker.lost_runs import split_by

SEALED_WITHIN = 0.5
"""Seconds after which a commit asks for its events to be sealed, and those of others meanwhile."""

split_by(COMMIT_TASK, split)


@shared_task(name=COMMIT_TASK, acks_late=True, ignore_result=True)
def commit(delivery: object) -> None:
    """Commit a delivery's events to the ledger; events that it has already stay as they are.

    After any error the delivery is put back into its queue, and is tried again without end.
    """
    began = time()
    with put_back("audit_commit_put_back"), db.scoped(LedgerScope()):
        received = append.receive(db.session, delivery)
        appended = time()
        db.session.commit()
        committed = time()
    append.count_received(received)
    if received.appended:
        send_once(SEAL_TASK, within=SEALED_WITHIN)
    current_traces().note(Stage.COMMIT, received.known, appended, committed)
    current_traces().note(Stage.TASK, received.known, began, time())


@shared_task(name=ASIDE_TASK, bind=True, acks_late=True, ignore_result=True)
def set_aside(
    self: "Task[[str, str, bool], None]", problem: str, message: str, authentic: bool = False
) -> None:
    """Put a message into quarantine, given in base64.

    One that is `authentic` has ended its worker again and again. Others no process of Sightline has
    sent.

    After an error it is put back once: it must not keep a worker busy without end.
    """
    again = not (self.request.delivery_info or {}).get("redelivered")
    with put_back("audit_set_aside_failed", again=again), db.scoped(LedgerScope()):
        received = append.set_aside(db.session, problem, b64decode(message), authentic=authentic)
        db.session.commit()
    append.count_received(received)


@shared_task(name="audit.make_partitions", ignore_result=True)
def make_partitions() -> None:
    """Make the ledger's partitions before their months begin."""
    with db.scoped(LedgerScope()):
        append.ensure_partitions(db.session, append.months_ahead(datetime.now(UTC).date()))
        db.session.commit()
