"""The task that notes the last use of a token, so that no request has to write it."""

from datetime import datetime
from uuid import UUID

from celery import shared_task

from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db
from webapp.identity import tokens
from webapp.identity.last_use import TOUCH_TASK


@shared_task(name=TOUCH_TASK, ignore_result=True)
def touch_token(token_id: str, used_at: str) -> None:
    """Note when a token was last used."""
    with db.scoped(MaintenanceScope()):
        tokens.touch(UUID(token_id), datetime.fromisoformat(used_at))
        db.session.commit()
