"""The ledger: committed events. Appending is idempotent by event id; nothing is ever rewritten."""

from collections.abc import Sequence

import orjson
import structlog
from prometheus_client import Counter
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from webapp.audit.event import AuditEvent, EventError, dump_event, has_valid_mac, load_event
from webapp.audit.models import AuditEventRow

log = structlog.get_logger()

COMMITTED = Counter("sightline_audit_committed_total", "Events appended to the ledger.")
DUPLICATES = Counter("sightline_audit_duplicates_total", "Events delivered again, and ignored.")
REJECTED = Counter("sightline_audit_rejected_total", "Deliveries that were no event of ours.")


def open_sealed(delivery: object, key: bytes) -> list[AuditEvent]:
    """The events of a delivery whose MAC holds. What else is in it raises an alarm, and holds
    nothing up: it would be no better at the next attempt."""
    events = []
    for item in delivery if isinstance(delivery, list) else [delivery]:
        try:
            events.append(_open(item, key))
        except EventError as error:
            REJECTED.inc()
            log.error("audit_event_rejected", problem=str(error))
    return events


def _open(item: object, key: bytes) -> AuditEvent:
    match item:
        case [str() as text, str() as mac]:
            data = text.encode(errors="replace")  # a lone surrogate, which no MAC of ours covers
        case _:
            raise EventError("not an event and its MAC")
    if not has_valid_mac(data, mac, key):
        raise EventError("the MAC does not match")
    return load_event(data)


def append(session: Session, events: Sequence[AuditEvent]) -> int:
    """Append what is not there yet and return how many that were. The caller commits, and then
    says so to `count_committed`."""
    if not events:
        return 0
    result = session.execute(
        insert(AuditEventRow).on_conflict_do_nothing(),
        # In one order, so that two deliveries of the same events do not lock each other out.
        [_row(event) for event in sorted(events, key=lambda event: event.id)],
        # As Core's: the ORM's bulk insert does not say how many rows there were.
        execution_options={"dml_strategy": "raw", "preserve_rowcount": True},
    )
    appended: int = result.rowcount  # type: ignore[attr-defined]  # a cursor result, as for any DML
    return appended


def count_committed(appended: int, delivered: int) -> None:
    COMMITTED.inc(appended)
    DUPLICATES.inc(delivered - appended)


def _row(event: AuditEvent) -> dict[str, object]:
    return {
        "id": event.id,
        "tenant_id": event.scope.tenant_id,
        "tenant": event.scope.tenant,
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
