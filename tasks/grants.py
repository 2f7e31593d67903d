"""The task that ends grants and requests."""

from celery import shared_task

from webapp.audit.operation import origin
from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db
from webapp.grants import expiry


@shared_task(name="grants.expire", ignore_result=True)
def expire() -> None:
    """End grants and requests whose time is over; record and announce each end once."""
    request = origin("TASK", "grants.expire")  # with an id of its own: who sent it is not recorded
    with db.scoped(MaintenanceScope()):
        while expiry.expire_over(request):
            db.session.commit()
