"""The ledger: committed events. Appending is idempotent by event id; nothing is ever rewritten."""

from collections.abc import Iterable, Sequence

import orjson
import structlog
from prometheus_client import Counter
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from webapp.audit.event import AuditEvent, EventError, dump_event, has_valid_mac, load_event
from webapp.audit.handoff import SealedEvent
from webapp.audit.models import AuditEventRow

log = structlog.get_logger()

COMMITTED = Counter("sightline_audit_committed_total", "Events appended to the ledger.")
DUPLICATES = Counter("sightline_audit_duplicates_total", "Events delivered again, and ignored.")
REJECTED = Counter("sightline_audit_rejected_total", "Deliveries that were no event of ours.")


def open_sealed(sealed: Iterable[SealedEvent], key: bytes) -> list[AuditEvent]:
    """The events whose MAC holds. The others raise an alarm and hold nothing up."""
    events = []
    for text, mac in sealed:
        data = text.encode()
        try:
            if not has_valid_mac(data, mac, key):
                raise EventError("the MAC does not match")
            events.append(load_event(data))
        except EventError as error:
            REJECTED.inc()
            log.error("audit_event_rejected", problem=str(error), bytes=len(data))
    return events


def append(session: Session, events: Sequence[AuditEvent]) -> int:
    """Append what is not there yet and return how many that were. The caller commits."""
    if not events:
        return 0
    rows = [_row(event) for event in events]
    result = session.execute(insert(AuditEventRow).values(rows).on_conflict_do_nothing())
    appended: int = result.rowcount  # type: ignore[attr-defined]  # a cursor result, as for any DML
    COMMITTED.inc(appended)
    DUPLICATES.inc(len(rows) - appended)
    return appended


def _row(event: AuditEvent) -> dict[str, object]:
    return {
        "id": event.id,
        "tenant_id": event.scope.tenant_id,
        "occurred_at": event.occurred_at,
        "kind": event.kind,
        "actor_id": event.actor.id,
        "actor_email": event.actor.email,
        "surface": event.surface,
        "reason_code": event.reason.code if event.reason else None,
        "ticket": event.reason.ticket if event.reason else None,
        "scope_kind": event.scope.kind,
        "effect": event.decision.effect,
        "outcome": event.outcome,
        "request_id": event.request.id,
        "excluded_tenant_ids": list(event.decision.excluded_tenant_ids),
        "event": orjson.loads(dump_event(event)),
    }
