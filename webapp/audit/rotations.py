"""Events of rotated keys: one for each key that came into use after another one of its name."""

from datetime import datetime
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
    append.append_own(
        db.session,
        [use_of_key(row.name, row.fingerprint, row.host, row.first_used_at) for row in rows],
    )
    for row in rows:
        row.recorded = True


def use_of_key(name: str, fingerprint: str, host: str, at: datetime | None = None) -> AuditEvent:
    """The event of a key that came into use after another one of its name, by default now."""
    request = EventRequest(
        id=uuid4().hex, ip=None, method="START", path=f"{name} {fingerprint}", user_agent=host
    )
    return change("keys.use", request, actor=SIGHTLINE, at=at)
