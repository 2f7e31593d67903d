"""Tasks that commit audit events, and that make the ledger's partitions."""

from datetime import UTC, datetime
from time import sleep

import structlog
from celery import shared_task
from celery.exceptions import Reject

from webapp.audit import append
from webapp.audit.relay.pipeline import COMMIT_TASK
from webapp.db.scopes import LedgerScope
from webapp.extensions import db
from webapp.settings import current_settings

PAUSE = 1.0
"""Seconds before a delivery that could not be committed is put back into its queue."""

log = structlog.get_logger()


@shared_task(name=COMMIT_TASK, acks_late=True, ignore_result=True)
def commit(delivery: object) -> None:
    """Commit a delivery's events to the ledger; events that it has already stay as they are.

    After any error the delivery is put back into its queue, and is tried again without end.
    Celery's own retry would send a copy and drop this delivery, even where the copy is lost.
    """
    try:
        with db.scoped(LedgerScope()):
            received = append.receive(
                db.session, delivery, current_settings().audit_mac_key.encode()
            )
            db.session.commit()
    except Exception as error:
        log.error("audit_commit_put_back", exc_info=error)
        sleep(PAUSE)
        raise Reject(type(error).__name__, requeue=True) from error
    append.count_received(received)


@shared_task(name="audit.make_partitions", ignore_result=True)
def make_partitions() -> None:
    """Make the ledger's partitions before their months begin."""
    with db.scoped(LedgerScope()):
        append.ensure_partitions(db.session, append.months_ahead(datetime.now(UTC).date()))
        db.session.commit()
