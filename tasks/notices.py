"""Tasks that send notices of grants, and that remove old ones."""

from time import monotonic

from celery import shared_task

from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db
from webapp.grants.notices import outbox
from webapp.worker.after_commit import send_soon

SENDING = 20.0
"""Seconds after which a task leaves the remaining notices to a new task, so that others can run."""


@shared_task(name=outbox.NOTICES_TASK, ignore_result=True)
def send() -> None:
    """Send the notices that are due, and skip a channel that does not answer for the rest of it."""
    until = monotonic() + SENDING
    unreachable: set[str | None] = set()
    with db.scoped(MaintenanceScope()):
        while (notice := outbox.take(unreachable)) is not None:
            db.session.commit()
            if not outbox.carry_out(notice):
                unreachable.add(notice.channel)
            db.session.commit()
            if monotonic() > until:
                send_soon(outbox.NOTICES_TASK)
                return


@shared_task(name="notices.forget", ignore_result=True)
def forget() -> None:
    """Remove notices that were sent long ago."""
    with db.scoped(MaintenanceScope()):
        outbox.forget_old()
        db.session.commit()
