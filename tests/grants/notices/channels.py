"""A mail server and a webhook receiver on this host, and an application that sends them notices."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

from aiosmtpd.controller import Controller
from flask import Flask
from sqlalchemy import delete, select, update
from uuid_utils.compat import uuid7

import tasks  # noqa: F401 - registers the tasks
from tests.applications import application_of
from tests.factories import Account, MadeTenant
from webapp.caching import invalidate
from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db
from webapp.grants.active import holder_tag, load_grants
from webapp.grants.grant import Grant
from webapp.grants.models import GrantRow, NoticeRow
from webapp.grants.notices import outbox
from webapp.stack.servers import free_port

SENDER = "sightline@example.org"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - a secret of nobody
"""Standard Webhooks' own example."""

PUBLIC = "https://sightline.example"


@dataclass
class Mailbox:
    """An SMTP handler that keeps every mail, except those to refused recipients."""

    refused: set[str] = field(default_factory=set)
    envelopes: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    users: set[bytes] = field(default_factory=set)

    async def handle_RCPT(
        self, _: object, __: object, envelope: Any, address: str, ___: object
    ) -> str:
        if address in self.refused:
            return "550 nobody here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _: object, session: Any, envelope: Any) -> str:
        self.users.add(session.auth_data or b"")
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.envelopes.append((list(envelope.rcpt_tos), message))
        return "250 OK"

    @property
    def recipients(self) -> list[str]:
        """The recipients of all mails, sorted."""
        return sorted(address for addresses, _ in self.envelopes for address in addresses)

    @property
    def mails(self) -> list[EmailMessage]:
        return [message for _, message in self.envelopes]


@dataclass
class Hooks:
    """The requests that a webhook receiver got, and the statuses that it answers.

    The last status is for all further requests.
    """

    statuses: list[int] = field(default_factory=lambda: [204])
    received: list[tuple[Message, bytes]] = field(default_factory=list)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.received]


@dataclass(frozen=True)
class NotifyingApp:
    """An application whose mails and webhooks go to ports of this host."""

    app: Flask
    mail_port: int
    hook_port: int


@contextmanager
def notifying_app(app: Flask, **changes: Any) -> Iterator[NotifyingApp]:
    """An application with its own broker, since workers of other tests have no mail server."""
    mail_port, hook_port = free_port(), free_port()
    settings = app.extensions["settings"]
    notifying_settings = {
        "celery_broker_url": own_broker(settings.redis_url),
        "public_url": PUBLIC,
        "smtp_url": f"smtp://127.0.0.1:{mail_port}",
        "mail_from": SENDER,
        "webhook_url": f"http://127.0.0.1:{hook_port}/hooks?key=Zq7Kx9",
        "webhook_secret": SECRET,
    }
    with application_of(replace(settings, **(notifying_settings | changes))) as made:
        yield NotifyingApp(made, mail_port, hook_port)


def own_broker(redis_url: str) -> str:
    """Another database of the same Redis."""
    return f"{redis_url.rstrip('/').removesuffix('/0')}/9"


@contextmanager
def receiving_mail(port: int, host: str = "127.0.0.1", **options: Any) -> Iterator[Mailbox]:
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname=host, port=port, **options)
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()


@contextmanager
def receiving_hooks(port: int) -> Iterator[Hooks]:
    hooks = Hooks()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hooks.received.append((self.headers, body))
            status = hooks.statuses.pop(0) if len(hooks.statuses) > 1 else hooks.statuses[0]
            self.send_response(status)
            self.send_header("Location", f"http://127.0.0.1:{port}/other")
            self.end_headers()

        do_GET = do_POST  # a client that followed the redirect would send a GET

        def log_message(self, format: str, *arguments: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield hooks
        finally:
            server.shutdown()
            thread.join()


def add_grant(app: Flask, holder: Account, tenant: MadeTenant | None, **changes: Any) -> Grant:
    """Insert a request of the holder, or the grant that `changes` make of it."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "id": uuid7(),
        "tenant_id": tenant.id if tenant else None,
        "kind": "approval",
        "principal_id": holder.id,
        "principal_email": holder.email,
        "surfaces": ["admin.rules.list"],
        "reason_code": "support_case",
        "ticket": "SUP-1",
        "note": "the invoice is wrong",
        "minutes": 30,
        "rule_ids": [],
        "state": "requested",
        "requested_at": now,
        "ends_at": now + timedelta(days=1),
        "version": 1,
    }
    row = GrantRow(**(values | changes))
    with app.app_context(), db.scoped(MaintenanceScope()):
        db.session.add(row)
        db.session.flush()
        (grant,) = load_grants(GrantRow.id == row.id)
        invalidate(holder_tag(holder.id))
        db.session.commit()
    return grant


def end(app: Flask, grant_id: UUID) -> None:
    """Let a grant's time be over."""
    with app.app_context(), db.scoped(MaintenanceScope()):
        row = db.session.get_one(GrantRow, grant_id)
        row.ends_at = datetime.now(UTC) - timedelta(seconds=1)
        invalidate(holder_tag(row.principal_id))
        db.session.commit()


def enqueue(app: Flask, event: Any, grant: Grant) -> None:
    with app.app_context(), db.scoped(MaintenanceScope()):
        outbox.enqueue(event, grant)
        db.session.commit()


def send(app: Flask) -> None:
    """Run the task that sends notices of grants, as a worker does.

    The notices of members, which tests make by the hundred, are dropped before.
    """
    drop_member_notices(app)
    send_all(app)


def send_all(app: Flask) -> None:
    """Run the task that sends notices."""
    app.extensions["celery"].tasks[outbox.NOTICES_TASK]()


def drop_member_notices(app: Flask) -> None:
    with app.app_context(), db.scoped(MaintenanceScope()):
        db.session.execute(delete(NoticeRow).where(NoticeRow.grant_id.is_(None)))
        db.session.commit()


def rows(app: Flask, grant_id: UUID) -> list[NoticeRow]:
    """The stored notices of a grant, in order."""
    with app.app_context(), db.scoped(MaintenanceScope()):
        statement = select(NoticeRow).where(NoticeRow.grant_id == grant_id).order_by(NoticeRow.id)
        found = list(db.session.scalars(statement))
        db.session.expunge_all()
    return found


def change_notices(app: Flask, **changes: Any) -> None:
    """Change all notices that are still to be sent."""
    with app.app_context(), db.scoped(MaintenanceScope()):
        waiting = update(NoticeRow).where(NoticeRow.due_at.is_not(None))
        db.session.execute(waiting.values(**changes))
        db.session.commit()


def hurry(app: Flask) -> None:
    """Let notices that wait for another attempt be due now."""
    change_notices(app, due_at=datetime.now(UTC))
