"""Events of rotated keys: one for each key that came into use after another one of its name."""

from uuid import uuid4

from sqlalchemy import select

from webapp.audit import append
from webapp.audit.event import AuditEvent, EventRequest
from webapp.audit.operation import SIGHTLINE, change
from webapp.extensions import db
from webapp.key_uses.models import KeyUseRow


def record() -> None:
    """Record the keys that have no event yet. The caller's commit marks them, too."""
    unrecorded = select(KeyUseRow).where(KeyUseRow.recorded.is_(False))
    rows = db.session.scalars(
        unrecorded.order_by(KeyUseRow.first_used_at).with_for_update(skip_locked=True)
    ).all()
    append.append_own(db.session, [_event(row) for row in rows])
    for row in rows:
        row.recorded = True


def _event(row: KeyUseRow) -> AuditEvent:
    request = EventRequest(
        id=uuid4().hex,
        ip=None,
        method="START",
        path=f"{row.name} {row.fingerprint}",
        user_agent=row.host,
    )
    return change("keys.use", request, actor=SIGHTLINE, at=row.first_used_at)
