"""What requests leave to the worker about audits."""

from time import sleep

import structlog
from celery import shared_task
from celery.exceptions import Reject

from webapp.audit import ledger
from webapp.audit.recorder import COMMIT_TASK
from webapp.extensions import current_settings, db
from webapp.scope.scopes import LedgerScope

PAUSE = 1.0
"""Seconds before a delivery that could not be committed is taken up again."""

log = structlog.get_logger()


@shared_task(name=COMMIT_TASK, acks_late=True, ignore_result=True)
def commit(delivery: object) -> None:
    """Commit a delivery's events to the ledger; what it has of them already stays as it is.

    Whatever goes wrong, the delivery is put back where it came from, for as long as it takes.
    Celery's own retry would send a copy and let go of this one, also where the copy did not arrive.
    """
    events = ledger.open_sealed(delivery, current_settings().audit_mac_key.encode())
    try:
        with db.session.scoped(LedgerScope()):
            appended = ledger.append(db.session, events)
            db.session.commit()
    except Exception as error:
        log.error("audit_commit_put_back", events=len(events), exc_info=error)
        sleep(PAUSE)
        raise Reject(type(error).__name__, requeue=True) from error
    ledger.count_committed(appended, len(events))
