"""What is told of grants, sent by whoever has time."""

from time import monotonic

from celery import shared_task

from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db
from webapp.grants.notices import outbox as notices

WHILE = 20.0
"""Seconds after which a task makes room for others; what is left then has another one."""


@shared_task(name=notices.NOTICES_TASK, ignore_result=True)
def send() -> None:
    """Send what is due; by a channel that does not answer, no more for now."""
    until = monotonic() + WHILE
    unreachable: set[str] = set()
    with db.scoped(MaintenanceScope()):
        while (notice := notices.take(unreachable)) is not None:
            db.session.commit()
            if not notices.carry_out(notice):
                unreachable.add(notice.channel)
            db.session.commit()
            if monotonic() > until:
                notices.send_soon()
                return


@shared_task(name="notices.forget", ignore_result=True)
def forget() -> None:
    """Remove those that were told long ago."""
    with db.scoped(MaintenanceScope()):
        notices.forget_old()
        db.session.commit()
