"""The task that records rotated keys."""

from celery import shared_task

from webapp.audit import rotations
from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db


@shared_task(name="keys.record", ignore_result=True)
def record() -> None:
    """Record each key that a process has begun to sign with, once."""
    with db.scoped(MaintenanceScope()):
        rotations.record()
        db.session.commit()
