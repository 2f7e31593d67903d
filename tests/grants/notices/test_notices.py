"""Notices about grants: their recipients, and delivery whatever fails meanwhile."""

import hmac
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from smtplib import (
    SMTPAuthenticationError,
    SMTPDataError,
    SMTPRecipientsRefused,
    SMTPServerDisconnected,
)
from unittest import mock
from uuid import UUID, uuid4

import pytest
from celery.schedules import crontab
from flask import Flask
from flask.testing import FlaskClient
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import LocationParseError, MaxRetryError

import celeryconfig
from tasks import notices as task
from tests.factories import Account, MadeTenant, add_account, add_tenant
from tests.grants.calls import require_approval
from tests.grants.notices.channels import (
    PUBLIC,
    SECRET,
    SENDER,
    Hooks,
    Mailbox,
    NotifyingApp,
    add_grant,
    change_notices,
    enqueue,
    hurry,
    notifying_app,
    receiving_hooks,
    receiving_mail,
    rows,
    send,
)
from webapp.db.scopes import DirectoryScope, MaintenanceScope
from webapp.directory import service as directory
from webapp.extensions import db
from webapp.grants.notices import mail, outbox, webhook
from webapp.grants.notices.webhook import Refused
from webapp.worker import after_commit

TOLERANCE = timedelta(seconds=30)


@pytest.fixture(scope="module")
def notifying(app: Flask) -> Iterator[NotifyingApp]:
    with notifying_app(app) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_pending_notices(notifying: NotifyingApp) -> Iterator[None]:
    yield
    change_notices(notifying.app, due_at=None)


@pytest.fixture
def mailbox(notifying: NotifyingApp) -> Iterator[Mailbox]:
    with receiving_mail(notifying.mail_port) as received:
        yield received


@pytest.fixture
def hooks(notifying: NotifyingApp) -> Iterator[Hooks]:
    with receiving_hooks(notifying.hook_port) as received:
        yield received


def test_approvers_are_notified_of_a_request(
    notifying: NotifyingApp,
    mailbox: Mailbox,
    hooks: Hooks,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
) -> None:
    add_account(notifying.app, member_of={tenant.slug: "member"})
    add_account(notifying.app, member_of={add_tenant(notifying.app).slug: "admin"})
    grant = add_grant(notifying.app, support, tenant)
    enqueue(notifying.app, "asked", grant)
    send(notifying.app)

    assert mailbox.recipients == [admin.email]
    (mail,) = mailbox.mails
    assert mail["From"] == f"Sightline <{SENDER}>"
    assert mail["To"] == admin.email
    assert mail["Subject"] == f"{support.email} asks to access {tenant.slug}"
    text = mail.get_content()
    link = f"{PUBLIC}/admin/api/grants/{grant.id}"
    for said in ("admin.rules.list", "support_case", "SUP-1", "the invoice is wrong", "30 min"):
        assert said in text
    assert link in text
    (body,) = hooks.bodies
    assert body["type"] == "grant.asked"
    assert body["data"]["url"] == link
    assert (body["data"]["holder"], body["data"]["tenant"]) == (support.email, tenant.slug)


def test_approvers_named_by_the_rules_are_notified_but_not_the_requester(
    notifying: NotifyingApp,
    client: FlaskClient,
    mailbox: Mailbox,
    tenant: MadeTenant,
    admin: Account,
) -> None:
    auditor, asking = add_account(notifying.app, "auditor"), add_account(notifying.app, "auditor")
    named = require_approval(client, admin.headers(), approver_roles=["auditor"])
    enqueue(
        notifying.app, "asked", add_grant(notifying.app, asking, tenant, rule_ids=[named["id"]])
    )
    send(notifying.app)
    assert auditor.email in mailbox.recipients
    assert not {asking.email, admin.email} & set(mailbox.recipients)


def test_owners_are_notified_of_a_request_for_all_tenants(
    notifying: NotifyingApp, mailbox: Mailbox, owner: Account, support: Account, admin: Account
) -> None:
    enqueue(notifying.app, "asked", add_grant(notifying.app, support, None))
    send(notifying.app)
    assert owner.email in mailbox.recipients
    assert admin.email not in mailbox.recipients
    assert "all tenants" in mailbox.mails[0]["Subject"]


@pytest.mark.parametrize("event", ["approved", "denied", "revoked", "expired"])
def test_holder_is_notified_of_every_change(
    notifying: NotifyingApp,
    mailbox: Mailbox,
    hooks: Hooks,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    event: str,
) -> None:
    assert admin
    enqueue(notifying.app, event, add_grant(notifying.app, support, tenant))
    send(notifying.app)
    assert mailbox.recipients == [support.email]
    assert [body["type"] for body in hooks.bodies] == [f"grant.{event}"]


def test_holder_who_has_ended_gets_no_mail(
    notifying: NotifyingApp, mailbox: Mailbox, hooks: Hooks, tenant: MadeTenant, support: Account
) -> None:
    grant = add_grant(notifying.app, support, tenant)
    with notifying.app.app_context(), db.scoped(DirectoryScope()):
        directory.end_user(support.email)
        db.session.commit()
    enqueue(notifying.app, "expired", grant)
    send(notifying.app)
    assert mailbox.recipients == []
    assert [body["type"] for body in hooks.bodies] == ["grant.expired"]


def test_holder_and_owners_are_notified_of_a_review(
    notifying: NotifyingApp, mailbox: Mailbox, tenant: MadeTenant, owner: Account, support: Account
) -> None:
    broken = add_grant(notifying.app, support, tenant, kind="break_glass", review="needed it")
    enqueue(notifying.app, "reviewed", broken)
    send(notifying.app)
    assert {owner.email, support.email} <= set(mailbox.recipients)
    assert "needed it" in mailbox.mails[0].get_content()


def test_notice_without_a_configured_channel_is_not_stored(
    app: Flask, tenant: MadeTenant, support: Account
) -> None:
    grant = add_grant(app, support, tenant)
    enqueue(app, "asked", grant)
    assert rows(app, grant.id) == []


def test_notice_of_a_rolled_back_change_is_not_stored(
    notifying: NotifyingApp, tenant: MadeTenant, support: Account
) -> None:
    grant = add_grant(notifying.app, support, tenant)
    with notifying.app.app_context(), db.scoped(MaintenanceScope()):
        outbox.enqueue("asked", grant)
        db.session.rollback()
    assert rows(notifying.app, grant.id) == []


def test_webhook_is_signed_by_standard_webhooks(
    notifying: NotifyingApp, hooks: Hooks, tenant: MadeTenant, support: Account
) -> None:
    grant = add_grant(notifying.app, support, tenant)
    enqueue(notifying.app, "denied", grant)
    send(notifying.app)
    ((headers, body),) = hooks.received
    (row,) = (row for row in rows(notifying.app, grant.id) if row.channel == "webhook")
    assert headers["webhook-id"] == str(row.id)
    assert headers["Content-Type"] == "application/json"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < TOLERANCE.total_seconds()
    # As the specification says it: id, timestamp and body, with dots.
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = b64decode(SECRET.partition("_")[2])
    signature = b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert headers["webhook-signature"] == f"v1,{signature}"


def test_webhook_is_signed_with_both_secrets_where_two_are_set(app: Flask) -> None:
    settings = replace(app.extensions["settings"], webhook_secret=SECRET)
    both = replace(settings, webhook_secret_accepted=f"whsec_{b64encode(b'n' * 24).decode()}")
    notice = UUID(int=7)
    signed = webhook.sign(both.webhook_secrets, notice, 1, b"{}")
    assert signed.split(" ") == [
        webhook.sign([secret], notice, 1, b"{}") for secret in both.webhook_secrets
    ]
    assert len(set(signed.split(" "))) == 2


def test_notice_reaches_servers_that_were_down_once_they_are_up(
    notifying: NotifyingApp, tenant: MadeTenant, admin: Account, support: Account
) -> None:
    grant = add_grant(notifying.app, support, tenant)
    enqueue(notifying.app, "asked", grant)
    send(notifying.app)
    waiting = [row for row in rows(notifying.app, grant.id) if row.sent_at is None]
    assert {(row.channel, row.recipient) for row in waiting} == {
        ("mail", admin.email),
        ("webhook", None),
    }
    for row in waiting:
        assert row.attempts == 1
        assert row.problem is not None
        assert row.due_at is not None
        assert abs(row.due_at - datetime.now(UTC) - timedelta(minutes=1)) < TOLERANCE
        # The webhook's address may hold a secret.
        assert "Zq7Kx9" not in row.problem
    with (
        receiving_mail(notifying.mail_port) as mailbox,
        receiving_hooks(notifying.hook_port) as hooks,
    ):
        send(notifying.app)  # before the pause is over
        assert (mailbox.mails, hooks.bodies) == ([], [])
        hurry(notifying.app)
        send(notifying.app)
        send(notifying.app)
    assert mailbox.recipients == [admin.email]
    assert len(hooks.bodies) == 1
    assert all(row.sent_at and row.problem is None for row in rows(notifying.app, grant.id))


def test_pauses_between_attempts_grow_until_the_notice_is_given_up(
    notifying: NotifyingApp,
    tenant: MadeTenant,
    support: Account,
    capsys: pytest.CaptureFixture[str],
) -> None:
    grant = add_grant(notifying.app, support, tenant)
    enqueue(notifying.app, "denied", grant)
    pauses = []
    for _ in range(9):
        hurry(notifying.app)
        send(notifying.app)
        (row,) = (row for row in rows(notifying.app, grant.id) if row.channel == "webhook")
        assert row.due_at is not None
        pauses.append(round((row.due_at - datetime.now(UTC)) / timedelta(minutes=1)))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    change_notices(notifying.app, created_at=datetime.now(UTC) - timedelta(days=3))
    hurry(notifying.app)
    send(notifying.app)
    for row in rows(notifying.app, grant.id):
        if row.recipient or row.channel == "webhook":
            assert (row.due_at, row.sent_at) == (None, None)
            assert row.problem
    assert "notice_given_up" in capsys.readouterr().err
    with notifying.app.app_context(), db.scoped(MaintenanceScope()):
        assert outbox.count_given_up(timedelta(days=7)) > outbox.count_given_up(timedelta(days=2))


def test_old_notices_are_deleted_once_they_are_sent(
    notifying: NotifyingApp, tenant: MadeTenant, support: Account
) -> None:
    kept, forgotten = (
        add_grant(notifying.app, support, tenant),
        add_grant(notifying.app, support, tenant),
    )
    enqueue(notifying.app, "denied", forgotten)
    change_notices(notifying.app, created_at=datetime.now(UTC) - outbox.KEPT)
    enqueue(notifying.app, "denied", kept)
    with notifying.app.app_context():
        task.forget()
    assert rows(notifying.app, forgotten.id), "they are still to be sent"
    send(notifying.app)
    with notifying.app.app_context():
        task.forget()
    assert rows(notifying.app, forgotten.id) == []
    assert rows(notifying.app, kept.id)


@pytest.mark.parametrize("status", [302, 400, 500])
def test_refused_webhook_is_repeated_with_the_same_id(
    notifying: NotifyingApp, hooks: Hooks, tenant: MadeTenant, support: Account, status: int
) -> None:
    hooks.statuses = [status, 200]
    grant = add_grant(notifying.app, support, tenant)
    enqueue(notifying.app, "denied", grant)
    send(notifying.app)
    assert len(hooks.received) == 1
    assert f"HTTP {status}" in [row.problem for row in rows(notifying.app, grant.id)]
    hurry(notifying.app)
    send(notifying.app)
    first, second = (headers["webhook-id"] for headers, _ in hooks.received)
    assert first == second


def test_refused_recipient_does_not_delay_the_others(
    notifying: NotifyingApp,
    mailbox: Mailbox,
    hooks: Hooks,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
) -> None:
    more = [add_account(notifying.app, member_of={tenant.slug: "admin"}).email for _ in range(3)]
    first, *others = sorted([admin.email, *more])
    mailbox.refused = {first}
    grant = add_grant(notifying.app, support, tenant)
    enqueue(notifying.app, "asked", grant)
    send(notifying.app)
    assert mailbox.recipients == others
    assert len(hooks.bodies) == 1
    (row,) = (row for row in rows(notifying.app, grant.id) if row.recipient == first)
    assert row.problem == "SMTPRecipientsRefused: 550"


SECRET_TEXT = "Zq7Kx9"  # noqa: S105 - stands for one
FAILURES: dict[str, tuple[Exception, str]] = {
    "a response": (
        SMTPAuthenticationError(535, f"no such password: {SECRET_TEXT}".encode()),
        "SMTPAuthenticationError: 535",
    ),
    "refused data": (
        SMTPDataError(554, f"spam: {SECRET_TEXT}".encode()),
        "SMTPDataError: 554",
    ),
    "refused recipients": (
        SMTPRecipientsRefused({SECRET_TEXT: (550, SECRET_TEXT.encode())}),
        "SMTPRecipientsRefused: 550",
    ),
    "a broken connection": (SMTPServerDisconnected(SECRET_TEXT), "SMTPServerDisconnected"),
    "a system's error": (ConnectionRefusedError(111, SECRET_TEXT), "ConnectionRefusedError"),
    "a webhook out of reach": (
        MaxRetryError(HTTPConnectionPool("localhost"), f"/hooks?key={SECRET_TEXT}"),
        "MaxRetryError",
    ),
    "a webhook's address": (LocationParseError(f"/hooks?key={SECRET_TEXT}"), "LocationParseError"),
    "a webhook's status": (Refused(410), "HTTP 410"),
    "no address": (ValueError(SECRET_TEXT), "ValueError"),
    "anything else": (RuntimeError(SECRET_TEXT), "RuntimeError"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("channel", ["mail", "webhook"])
def test_problem_of_a_notice_names_the_failure_and_repeats_no_text_of_it(
    notifying: NotifyingApp,
    tenant: MadeTenant,
    support: Account,
    capsys: pytest.CaptureFixture[str],
    channel: str,
    failure: str,
) -> None:
    """The text may hold an address with its secrets, or what a stranger's server has said."""
    error, expected = FAILURES[failure]
    grant = add_grant(notifying.app, support, tenant)
    enqueue(notifying.app, "denied", grant)
    with (
        mock.patch.object(mail, "post", side_effect=error),
        mock.patch.object(webhook, "post", side_effect=error),
    ):
        send(notifying.app)
    (row,) = (
        row
        for row in rows(notifying.app, grant.id)
        if row.channel == channel and (row.recipient or channel == "webhook")
    )
    assert row.problem == expected
    said = capsys.readouterr().err
    assert "notice_failed" in said
    assert SECRET_TEXT not in said


def test_mail_server_that_is_down_is_tried_once_and_delays_no_webhook(
    notifying: NotifyingApp, hooks: Hooks, tenant: MadeTenant, support: Account
) -> None:
    grants = [add_grant(notifying.app, support, tenant) for _ in range(3)]
    for grant in grants:
        enqueue(notifying.app, "denied", grant)
    send(notifying.app)
    assert len(hooks.bodies) == 3
    found = [row for grant in grants for row in rows(notifying.app, grant.id)]
    assert sum(row.attempts for row in found if row.recipient) == 1


def test_concurrent_senders_send_each_notice_once(
    notifying: NotifyingApp, mailbox: Mailbox, hooks: Hooks, tenant: MadeTenant, support: Account
) -> None:
    grants = [add_grant(notifying.app, support, tenant) for _ in range(10)]
    for grant in grants:
        enqueue(notifying.app, "denied", grant)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(send, [notifying.app] * 3))
    send(notifying.app)
    assert len(mailbox.mails) == len(hooks.bodies) == len(grants)
    assert len({mail["Message-ID"] for mail in mailbox.mails}) == len(grants)
    assert {body["data"]["id"] for body in hooks.bodies} == {str(grant.id) for grant in grants}


def test_notice_taken_by_a_dead_worker_is_sent_by_another(
    notifying: NotifyingApp, hooks: Hooks, tenant: MadeTenant, support: Account
) -> None:
    grant = add_grant(notifying.app, support, tenant)
    enqueue(notifying.app, "denied", grant)
    with notifying.app.app_context(), db.scoped(MaintenanceScope()):
        taken = outbox.take({"mail"})
        assert taken is not None
        db.session.commit()
    send(notifying.app)
    assert hooks.bodies == []
    (row,) = (row for row in rows(notifying.app, grant.id) if row.id == taken.id)
    assert row.due_at is not None
    assert row.due_at - datetime.now(UTC) < outbox.LEASE
    hurry(notifying.app)
    send(notifying.app)
    assert len(hooks.bodies) == 1


def test_notice_addressed_by_two_workers_is_sent_once(
    notifying: NotifyingApp, mailbox: Mailbox, tenant: MadeTenant, support: Account
) -> None:
    """The first worker was so slow that another one took over."""
    grant = add_grant(notifying.app, support, tenant)
    enqueue(notifying.app, "denied", grant)
    with notifying.app.app_context(), db.scoped(MaintenanceScope()):
        slow = outbox.take({"webhook"})
        db.session.commit()
    assert slow is not None
    hurry(notifying.app)
    send(notifying.app)
    with notifying.app.app_context(), db.scoped(MaintenanceScope()):
        outbox.carry_out(slow)
        db.session.commit()
    send(notifying.app)
    assert mailbox.recipients == [support.email]


def test_notice_is_sent_although_the_broker_is_lost(
    app: Flask,
    notifying: NotifyingApp,
    mailbox: Mailbox,
    tenant: MadeTenant,
    support: Account,
    capsys: pytest.CaptureFixture[str],
) -> None:
    urls = {"smtp_url": f"smtp://127.0.0.1:{notifying.mail_port}"}
    with notifying_app(app, celery_broker_url="redis://127.0.0.1:1/0", **urls) as cut_off:
        grant = add_grant(cut_off.app, support, tenant)
        enqueue(cut_off.app, "denied", grant)
        said = ""
        with cut_off.app.app_context():
            after_commit.send_soon(outbox.NOTICES_TASK)
        deadline = time.monotonic() + 30
        while "task_not_sent_soon" not in said:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            said += capsys.readouterr().err
    send(notifying.app)
    assert mailbox.recipients == [support.email]


def test_note_with_line_breaks_adds_no_header_and_no_line(
    notifying: NotifyingApp, mailbox: Mailbox, tenant: MadeTenant, support: Account
) -> None:
    written = "wrong\r\nBcc: everybody@example.org\r\n\r\nTo decide, go away"
    enqueue(
        notifying.app,
        "denied",
        add_grant(notifying.app, support, tenant, note=written, ticket=written),
    )
    send(notifying.app)
    (mail,) = mailbox.mails
    assert mailbox.recipients == [support.email]
    assert mail["Bcc"] is None
    assert r"Note      wrong\r\nBcc: everybody@example.org\r\n\r\nTo decide" in mail.get_content()


@pytest.mark.parametrize("name", ["{},victim@example.org", "{}<victim@example.org>"])
def test_notice_for_an_invalid_address_reaches_nobody(
    notifying: NotifyingApp, mailbox: Mailbox, tenant: MadeTenant, support: Account, name: str
) -> None:
    with notifying.app.app_context(), db.scoped(DirectoryScope()):
        misnamed = directory.create_user(name.format(uuid4().hex)).id
        db.session.commit()
    grant = add_grant(notifying.app, replace(support, id=misnamed), tenant)
    enqueue(notifying.app, "denied", grant)
    send(notifying.app)
    assert mailbox.recipients == []
    (waiting,) = (row for row in rows(notifying.app, grant.id) if row.recipient)
    assert waiting.problem


def test_sender_leaves_remaining_notices_to_another_after_its_time(
    notifying: NotifyingApp,
    hooks: Hooks,
    tenant: MadeTenant,
    support: Account,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requested: list[str] = []
    monkeypatch.setattr(task, "SENDING", 0)
    for sender in (after_commit, task):
        monkeypatch.setattr(sender, "send_soon", requested.append)
    for _ in range(2):
        enqueue(notifying.app, "denied", add_grant(notifying.app, support, tenant))
    assert requested == [outbox.NOTICES_TASK] * 2  # each commit of a notice has it sent
    requested.clear()
    send(notifying.app)
    assert requested == [outbox.NOTICES_TASK]
    assert len(hooks.bodies) < 2
    while requested:
        requested.clear()
        send(notifying.app)
    assert len(hooks.bodies) == 2


def test_beat_schedules_notices_every_minute() -> None:
    (entry,) = [e for e in celeryconfig.beat_schedule.values() if e["task"] == "notices.send"]
    assert entry["schedule"] == crontab(minute="*")
