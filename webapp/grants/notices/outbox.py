"""The outbox of notices about grants and about tenants' members.

A notice is stored in the transaction that makes the change, and a task sends it. Triggers of the
database store those about members, whoever makes the change. A notice is sent
at least once. It is sent again only if its sender died before it could store that it was sent. Its
id stays the same, so a receiver recognizes a repeated notice.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from smtplib import SMTPDataError, SMTPRecipientsRefused, SMTPResponseException
from typing import Any, Literal, cast
from uuid import UUID

import orjson
import structlog
from prometheus_client import Counter
from sqlalchemy import ColumnElement, delete, func, or_, select

from webapp.extensions import db
from webapp.grants.active import load_grants
from webapp.grants.grant import Grant, GrantEvent
from webapp.grants.models import GrantRow, NoticeRow
from webapp.grants.notices import mail, webhook
from webapp.grants.notices.recipients import find_admins, find_recipients
from webapp.settings import current_settings
from webapp.worker.after_commit import send_after_commit

NOTICES_TASK = "notices.send"

Channel = Literal["mail", "webhook"]

LEASE = timedelta(minutes=5)
"""How long a sender keeps a notice that it has taken: longer than sending can last."""

FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
PATIENCE = timedelta(days=3)
"""A notice that still fails after this time is given up."""

KEPT = timedelta(days=30)
"""How long notices are kept, so that people can see what became of them."""

log = structlog.get_logger()

NOTICES = Counter(
    "sightline_notices_total",
    "Attempts to send a notice, by channel and outcome: sent, failed, or given up.",
    ("channel", "outcome"),
)


@dataclass(frozen=True)
class Notice:
    """A notice that a sender has taken."""

    id: UUID
    grant_id: UUID | None
    """`None` of a notice about a member."""
    event: str
    tenants: tuple[UUID, ...]
    people: tuple[UUID, ...]
    channel: Channel | None
    """`None` until it is replaced by a notice for each channel."""
    recipient: str | None
    body: Mapping[str, Any]
    attempt: int


def enqueue(event: GrantEvent, grant: Grant, tenants: Iterable[UUID] = ()) -> None:
    """Store a notice of a change to a grant, to be sent once the transaction commits.

    It goes to the people whom the grant concerns. For break-glass at all tenants, it goes to the
    admins of `tenants` too.
    """
    now = datetime.now(UTC)
    body = _body(event, grant, now)
    db.session.add_all(
        NoticeRow(
            grant_id=grant.id,
            event=event,
            tenants=list(tenants),
            channel=channel,
            body=body,
            created_at=now,
            due_at=now,
            attempts=0,
        )
        for channel in _channels()
    )
    db.session.flush()
    send_after_commit(db.session, NOTICES_TASK)


def _channels() -> list[Channel]:
    """The channels that are configured."""
    settings = current_settings()
    configured: dict[Channel, str | None] = {
        "mail": settings.smtp_url,
        "webhook": settings.webhook_url,
    }
    return [channel for channel, address in configured.items() if address]


def take(unreachable: Collection[str | None]) -> Notice | None:
    """Take the next notice that is due, except on unreachable channels.

    Once the caller has committed, no other sender takes the notice for the time of `LEASE`.
    """
    now = datetime.now(UTC)
    row = db.session.scalar(
        select(NoticeRow)
        .where(NoticeRow.due_at <= now, _usable(unreachable))
        .order_by(NoticeRow.due_at, NoticeRow.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if row is None:
        return None
    row.attempts += 1
    row.due_at = now + LEASE
    return Notice(
        id=row.id,
        grant_id=row.grant_id,
        event=row.event,
        tenants=tuple(row.tenants),
        people=tuple(row.people),
        channel=cast(Channel | None, row.channel),
        recipient=row.recipient,
        body=row.body,
        attempt=row.attempts,
    )


def carry_out(notice: Notice) -> bool:
    """Send a notice that was taken, or address it, and store the result.

    Returns whether its channel can be used for other notices now.
    """
    if notice.channel is None:
        _spread(notice)
        return True
    if notice.channel == "mail" and notice.recipient is None:
        _address(notice)
        return True
    try:
        _send(notice)
    except Exception as error:  # whatever fails for one notice, the others are sent
        _store_failure(notice, error)
        return isinstance(error, _FAILURES_OF_ONE_NOTICE)
    row = db.session.get_one(NoticeRow, notice.id)
    row.sent_at, row.due_at, row.problem = datetime.now(UTC), None, None
    NOTICES.labels(notice.channel, "sent").inc()
    return True


def count_given_up(since: timedelta) -> int:
    """Count the notices made within `since` that were given up."""
    return db.session.scalars(
        select(func.count(NoticeRow.id)).where(
            NoticeRow.created_at > datetime.now(UTC) - since,
            NoticeRow.due_at.is_(None),
            NoticeRow.problem.is_not(None),
        )
    ).one()


def forget_old() -> None:
    """Delete notices that are older than `KEPT` and were sent or given up."""
    over = NoticeRow.due_at.is_(None) & (NoticeRow.created_at < datetime.now(UTC) - KEPT)
    db.session.execute(delete(NoticeRow).where(over))


class _NotConfigured(Exception):
    """The notice's channel was configured when the notice was enqueued, and is no more."""


_FAILURES_OF_ONE_NOTICE = (SMTPDataError, SMTPRecipientsRefused, ValueError, webhook.Refused)
"""Errors that say nothing about other notices on the same channel."""


def _send(notice: Notice) -> None:
    settings = current_settings()
    match notice.channel:
        case "mail" if settings.smtp_url and settings.mail_from and notice.recipient:
            message = mail.compose(notice.id, settings.mail_from, notice.recipient, notice.body)
            mail.post(settings.smtp_url, message, notice.recipient, settings.plaintext_hosts)
        case "webhook" if settings.webhook_url and settings.webhook_secrets:
            webhook.post(
                settings.webhook_url,
                settings.webhook_secrets,
                notice.id,
                int(datetime.now(UTC).timestamp()),
                orjson.dumps(notice.body),
            )
        case _:
            raise _NotConfigured


def _store_failure(notice: Notice, error: Exception) -> None:
    row, now = db.session.get_one(NoticeRow, notice.id), datetime.now(UTC)
    pause = min(FIRST_PAUSE * 2 ** min(notice.attempt - 1, 10), LONGEST_PAUSE)
    row.problem = _describe(error)
    row.due_at = now + pause if now + pause < row.created_at + PATIENCE else None
    outcome = "failed" if row.due_at else "given_up"
    NOTICES.labels(notice.channel, outcome).inc()
    report = log.warning if row.due_at else log.error
    report(
        f"notice_{outcome}",
        notice=str(notice.id),
        channel=notice.channel,
        attempt=notice.attempt,
        problem=row.problem,
    )


def _describe(error: Exception) -> str:
    """Describe an error without a library's own text, which may repeat an address or a secret."""
    match error:
        case SMTPResponseException(smtp_code=code):
            return f"{type(error).__name__}: {code}"
        case SMTPRecipientsRefused(recipients=refused):
            codes = {str(code) for code, _ in refused.values()}
            return f"SMTPRecipientsRefused: {', '.join(sorted(codes))}"
        case webhook.Refused():
            return str(error)
    return type(error).__name__


def _usable(unreachable: Collection[str | None]) -> ColumnElement[bool]:
    return or_(NoticeRow.channel.is_(None), NoticeRow.channel.not_in(unreachable))


def _spread(notice: Notice) -> None:
    """Replace a notice that has no channel yet by one for each channel that is configured."""
    row = db.session.get_one(NoticeRow, notice.id, with_for_update=True)
    if row.attempts != notice.attempt:  # another sender has taken it meanwhile
        return
    url = f"{current_settings().public_url}/admin/api/audits/{row.body['data']['event']}"
    body = {**row.body, "data": {**row.body["data"], "url": url}}
    db.session.add_all(_copy(row, channel=channel, body=body) for channel in _channels())
    db.session.delete(row)


def _address(notice: Notice) -> None:
    """Replace a mail that has no recipient yet by one mail for each recipient."""
    recipients = _recipients(notice)
    row = db.session.get_one(NoticeRow, notice.id, with_for_update=True)
    if row.attempts != notice.attempt:  # another sender has taken it meanwhile
        return
    row.sent_at, row.due_at = datetime.now(UTC), None
    db.session.add_all(
        _copy(row, channel=row.channel, recipient=recipient) for recipient in recipients
    )
    if not recipients:
        row.problem = "no recipient"
        log.error("notice_without_recipient", notice=str(notice.id), event_told=notice.event)


def _recipients(notice: Notice) -> list[str]:
    if notice.grant_id is None:
        return find_admins(notice.tenants, notice.people)
    (grant,) = load_grants(GrantRow.id == notice.grant_id)
    return find_recipients(cast(GrantEvent, notice.event), grant, notice.tenants)


def _copy(row: NoticeRow, **values: Any) -> NoticeRow:
    """A notice like another one, that is due now."""
    kept = {name: getattr(row, name) for name in _KEPT_FIELDS}
    return NoticeRow(**(kept | {"due_at": datetime.now(UTC), "attempts": 0} | values))


_KEPT_FIELDS = ("grant_id", "event", "tenants", "people", "body", "created_at")


def _body(event: GrantEvent, grant: Grant, at: datetime) -> dict[str, Any]:
    """The body of a notice, as Standard Webhooks proposes it: type, timestamp, data."""
    return {
        "type": f"grant.{event}",
        "timestamp": _text(at),
        "data": {
            "id": str(grant.id),
            "kind": grant.kind,
            "holder": grant.email,
            "tenant": grant.tenant,
            "surfaces": list(grant.surfaces),
            "reason": grant.reason,
            "ticket": grant.ticket,
            "note": grant.note,
            "minutes": grant.minutes,
            "state": grant.state,
            "ends_at": _text(grant.ends_at),
            "closed_by": grant.closed_by,
            "reviewed_by": grant.reviewed_by,
            "review": grant.review,
            "url": f"{current_settings().public_url}/admin/api/grants/{grant.id}",
        },
    }


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
