"""Who is told of grants, and that they are, whatever fails meanwhile."""

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
from uuid import uuid4

import pytest
from celery.schedules import crontab
from flask import Flask
from flask.testing import FlaskClient
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import LocationParseError, MaxRetryError

import celeryconfig
from tasks import notices as task
from tests.factories import Account, MadeTenant, add_account, add_tenant
from tests.grants.calls import want_approval
from tests.grants.notices.channels import (
    PUBLIC,
    SECRET,
    SENDER,
    Hooks,
    Mailbox,
    NotifyingApp,
    add_grant,
    change_notices,
    hurry,
    notifying_app,
    receiving_hooks,
    receiving_mail,
    rows,
    send,
    tell,
)
from webapp.db.scopes import IdentityScope, MaintenanceScope
from webapp.directory import service as directory
from webapp.extensions import db
from webapp.grants.notices import mail, webhook
from webapp.grants.notices import outbox as notices
from webapp.grants.notices.webhook import Refused

TOLERANCE = timedelta(seconds=30)


@pytest.fixture(scope="module")
def told(app: Flask) -> Iterator[NotifyingApp]:
    with notifying_app(app) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_left(told: NotifyingApp) -> Iterator[None]:
    yield
    change_notices(told.app, due_at=None)


@pytest.fixture
def mailbox(told: NotifyingApp) -> Iterator[Mailbox]:
    with receiving_mail(told.mail_port) as received:
        yield received


@pytest.fixture
def hooks(told: NotifyingApp) -> Iterator[Hooks]:
    with receiving_hooks(told.hook_port) as received:
        yield received


def test_who_decides_is_asked(
    told: NotifyingApp,
    mailbox: Mailbox,
    hooks: Hooks,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
) -> None:
    add_account(told.app, member_of={tenant.slug: "member"})
    add_account(told.app, member_of={add_tenant(told.app).slug: "admin"})
    grant = add_grant(told.app, support, tenant)
    tell(told.app, "asked", grant)
    send(told.app)

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


def test_those_are_asked_whom_the_rules_name_but_never_who_asks(
    told: NotifyingApp, client: FlaskClient, mailbox: Mailbox, tenant: MadeTenant, admin: Account
) -> None:
    auditor, asking = add_account(told.app, "auditor"), add_account(told.app, "auditor")
    named = want_approval(client, admin.headers(), approver_roles=["auditor"])
    tell(told.app, "asked", add_grant(told.app, asking, tenant, rule_ids=[named["id"]]))
    send(told.app)
    assert auditor.email in mailbox.recipients
    assert not {asking.email, admin.email} & set(mailbox.recipients)


def test_the_platform_s_approvals_are_the_owners(
    told: NotifyingApp, mailbox: Mailbox, owner: Account, support: Account, admin: Account
) -> None:
    tell(told.app, "asked", add_grant(told.app, support, None))
    send(told.app)
    assert owner.email in mailbox.recipients
    assert admin.email not in mailbox.recipients
    assert "all tenants" in mailbox.mails[0]["Subject"]


@pytest.mark.parametrize("event", ["approved", "denied", "revoked", "expired"])
def test_the_holder_is_told_what_became_of_it(
    told: NotifyingApp,
    mailbox: Mailbox,
    hooks: Hooks,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    event: str,
) -> None:
    assert admin
    tell(told.app, event, add_grant(told.app, support, tenant))
    send(told.app)
    assert mailbox.recipients == [support.email]
    assert [body["type"] for body in hooks.bodies] == [f"grant.{event}"]


def test_a_holder_who_has_ended_gets_no_mail(
    told: NotifyingApp, mailbox: Mailbox, hooks: Hooks, tenant: MadeTenant, support: Account
) -> None:
    grant = add_grant(told.app, support, tenant)
    with told.app.app_context(), db.scoped(IdentityScope()):
        directory.end_user(support.email)
        db.session.commit()
    tell(told.app, "expired", grant)
    send(told.app)
    assert mailbox.recipients == []
    assert [body["type"] for body in hooks.bodies] == ["grant.expired"]


def test_a_review_is_told_to_the_holder_and_to_the_owners(
    told: NotifyingApp, mailbox: Mailbox, tenant: MadeTenant, owner: Account, support: Account
) -> None:
    broken = add_grant(told.app, support, tenant, kind="break_glass", review="needed it")
    tell(told.app, "reviewed", broken)
    send(told.app)
    assert {owner.email, support.email} <= set(mailbox.recipients)
    assert "needed it" in mailbox.mails[0].get_content()


def test_where_nothing_is_configured_nothing_is_kept(
    app: Flask, tenant: MadeTenant, support: Account
) -> None:
    grant = add_grant(app, support, tenant)
    tell(app, "asked", grant)
    assert rows(app, grant.id) == []


def test_what_is_rolled_back_is_not_told(
    told: NotifyingApp, tenant: MadeTenant, support: Account
) -> None:
    grant = add_grant(told.app, support, tenant)
    with told.app.app_context(), db.scoped(MaintenanceScope()):
        notices.enqueue("asked", grant)
        db.session.rollback()
    assert rows(told.app, grant.id) == []


def test_the_webhook_is_signed(
    told: NotifyingApp, hooks: Hooks, tenant: MadeTenant, support: Account
) -> None:
    grant = add_grant(told.app, support, tenant)
    tell(told.app, "denied", grant)
    send(told.app)
    ((headers, body),) = hooks.received
    (row,) = (row for row in rows(told.app, grant.id) if row.channel == "webhook")
    assert headers["webhook-id"] == str(row.id)
    assert headers["Content-Type"] == "application/json"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < TOLERANCE.total_seconds()
    # As the specification says it: id, timestamp and body, with dots.
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = b64decode(SECRET.partition("_")[2])
    signature = b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert headers["webhook-signature"] == f"v1,{signature}"


def test_servers_that_are_down_get_it_when_they_are_up(
    told: NotifyingApp, tenant: MadeTenant, admin: Account, support: Account
) -> None:
    grant = add_grant(told.app, support, tenant)
    tell(told.app, "asked", grant)
    send(told.app)
    waiting = [row for row in rows(told.app, grant.id) if row.sent_at is None]
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
    with receiving_mail(told.mail_port) as mailbox, receiving_hooks(told.hook_port) as hooks:
        send(told.app)  # before the pause is over
        assert (mailbox.mails, hooks.bodies) == ([], [])
        hurry(told.app)
        send(told.app)
        send(told.app)
    assert mailbox.recipients == [admin.email]
    assert len(hooks.bodies) == 1
    assert all(row.sent_at and row.problem is None for row in rows(told.app, grant.id))


def test_pauses_grow_until_it_is_given_up(
    told: NotifyingApp, tenant: MadeTenant, support: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    grant = add_grant(told.app, support, tenant)
    tell(told.app, "denied", grant)
    pauses = []
    for _ in range(9):
        hurry(told.app)
        send(told.app)
        (row,) = (row for row in rows(told.app, grant.id) if row.channel == "webhook")
        assert row.due_at is not None
        pauses.append(round((row.due_at - datetime.now(UTC)) / timedelta(minutes=1)))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    change_notices(told.app, created_at=datetime.now(UTC) - timedelta(days=3))
    hurry(told.app)
    send(told.app)
    for row in rows(told.app, grant.id):
        if row.recipient or row.channel == "webhook":
            assert (row.due_at, row.sent_at) == (None, None)
            assert row.problem
    assert "notice_given_up" in capsys.readouterr().err
    with told.app.app_context(), db.scoped(MaintenanceScope()):
        assert notices.count_given_up(timedelta(days=7)) > notices.count_given_up(timedelta(days=2))


def test_what_nothing_more_becomes_of_is_forgotten_in_the_end(
    told: NotifyingApp, tenant: MadeTenant, support: Account
) -> None:
    kept, forgotten = add_grant(told.app, support, tenant), add_grant(told.app, support, tenant)
    tell(told.app, "denied", forgotten)
    change_notices(told.app, created_at=datetime.now(UTC) - notices.KEPT)
    tell(told.app, "denied", kept)
    with told.app.app_context():
        task.forget()
    assert rows(told.app, forgotten.id), "they are still to be sent"
    send(told.app)
    with told.app.app_context():
        task.forget()
    assert rows(told.app, forgotten.id) == []
    assert rows(told.app, kept.id)


@pytest.mark.parametrize("status", [302, 400, 500])
def test_what_the_webhook_refuses_comes_again_with_the_same_id(
    told: NotifyingApp, hooks: Hooks, tenant: MadeTenant, support: Account, status: int
) -> None:
    hooks.statuses = [status, 200]
    grant = add_grant(told.app, support, tenant)
    tell(told.app, "denied", grant)
    send(told.app)
    assert len(hooks.received) == 1
    assert f"HTTP {status}" in [row.problem for row in rows(told.app, grant.id)]
    hurry(told.app)
    send(told.app)
    first, second = (headers["webhook-id"] for headers, _ in hooks.received)
    assert first == second


def test_one_who_is_refused_holds_up_nobody(
    told: NotifyingApp,
    mailbox: Mailbox,
    hooks: Hooks,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
) -> None:
    more = [add_account(told.app, member_of={tenant.slug: "admin"}).email for _ in range(3)]
    first, *others = sorted([admin.email, *more])
    mailbox.refused = {first}
    grant = add_grant(told.app, support, tenant)
    tell(told.app, "asked", grant)
    send(told.app)
    assert mailbox.recipients == others
    assert len(hooks.bodies) == 1
    (row,) = (row for row in rows(told.app, grant.id) if row.recipient == first)
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
def test_problem_of_a_notice_names_a_failure_and_repeats_no_text_of_it(
    told: NotifyingApp,
    tenant: MadeTenant,
    support: Account,
    capsys: pytest.CaptureFixture[str],
    channel: str,
    failure: str,
) -> None:
    """The text may hold an address with its secrets, or what a stranger's server has said."""
    error, expected = FAILURES[failure]
    grant = add_grant(told.app, support, tenant)
    tell(told.app, "denied", grant)
    with (
        mock.patch.object(mail, "post", side_effect=error),
        mock.patch.object(webhook, "post", side_effect=error),
    ):
        send(told.app)
    (row,) = (
        row
        for row in rows(told.app, grant.id)
        if row.channel == channel and (row.recipient or channel == "webhook")
    )
    assert row.problem == expected
    said = capsys.readouterr().err
    assert "notice_failed" in said
    assert SECRET_TEXT not in said


def test_a_mail_server_that_is_down_is_tried_once_and_holds_up_no_webhook(
    told: NotifyingApp, hooks: Hooks, tenant: MadeTenant, support: Account
) -> None:
    grants = [add_grant(told.app, support, tenant) for _ in range(3)]
    for grant in grants:
        tell(told.app, "denied", grant)
    send(told.app)
    assert len(hooks.bodies) == 3
    found = [row for grant in grants for row in rows(told.app, grant.id)]
    assert sum(row.attempts for row in found if row.recipient) == 1


def test_two_who_send_at_once_send_each_once(
    told: NotifyingApp, mailbox: Mailbox, hooks: Hooks, tenant: MadeTenant, support: Account
) -> None:
    grants = [add_grant(told.app, support, tenant) for _ in range(10)]
    for grant in grants:
        tell(told.app, "denied", grant)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(send, [told.app] * 3))
    send(told.app)
    assert len(mailbox.mails) == len(hooks.bodies) == len(grants)
    assert len({mail["Message-ID"] for mail in mailbox.mails}) == len(grants)
    assert {body["data"]["id"] for body in hooks.bodies} == {str(grant.id) for grant in grants}


def test_what_a_dead_worker_had_taken_is_sent_by_another(
    told: NotifyingApp, hooks: Hooks, tenant: MadeTenant, support: Account
) -> None:
    grant = add_grant(told.app, support, tenant)
    tell(told.app, "denied", grant)
    with told.app.app_context(), db.scoped(MaintenanceScope()):
        taken = notices.take({"mail"})
        assert taken is not None
        db.session.commit()
    send(told.app)
    assert hooks.bodies == []
    (row,) = (row for row in rows(told.app, grant.id) if row.id == taken.id)
    assert row.due_at is not None
    assert row.due_at - datetime.now(UTC) < notices.LEASE
    hurry(told.app)
    send(told.app)
    assert len(hooks.bodies) == 1


def test_what_was_addressed_twice_is_told_once(
    told: NotifyingApp, mailbox: Mailbox, tenant: MadeTenant, support: Account
) -> None:
    """By a worker that was so slow that another took over."""
    grant = add_grant(told.app, support, tenant)
    tell(told.app, "denied", grant)
    with told.app.app_context(), db.scoped(MaintenanceScope()):
        slow = notices.take({"webhook"})
        db.session.commit()
    assert slow is not None
    hurry(told.app)
    send(told.app)
    with told.app.app_context(), db.scoped(MaintenanceScope()):
        notices.carry_out(slow)
        db.session.commit()
    send(told.app)
    assert mailbox.recipients == [support.email]


def test_nothing_is_lost_with_the_broker(
    app: Flask,
    told: NotifyingApp,
    mailbox: Mailbox,
    tenant: MadeTenant,
    support: Account,
    capsys: pytest.CaptureFixture[str],
) -> None:
    urls = {"smtp_url": f"smtp://127.0.0.1:{told.mail_port}"}
    with notifying_app(app, celery_broker_url="redis://127.0.0.1:1/0", **urls) as cut_off:
        grant = add_grant(cut_off.app, support, tenant)
        tell(cut_off.app, "denied", grant)
        said = ""
        with cut_off.app.app_context():
            notices.send_soon()
        deadline = time.monotonic() + 30
        while "notices_not_sent_soon" not in said:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            said += capsys.readouterr().err
    send(told.app)
    assert mailbox.recipients == [support.email]


def test_what_somebody_wrote_adds_no_header_and_no_line(
    told: NotifyingApp, mailbox: Mailbox, tenant: MadeTenant, support: Account
) -> None:
    written = "wrong\r\nBcc: everybody@example.org\r\n\r\nTo decide, go elsewhere"
    tell(told.app, "denied", add_grant(told.app, support, tenant, note=written, ticket=written))
    send(told.app)
    (mail,) = mailbox.mails
    assert mailbox.recipients == [support.email]
    assert mail["Bcc"] is None
    assert "Note      wrong Bcc: everybody@example.org To decide" in mail.get_content()


@pytest.mark.parametrize("name", ["{},victim@example.org", "{}<victim@example.org>"])
def test_a_name_that_is_no_address_reaches_nobody(
    told: NotifyingApp, mailbox: Mailbox, tenant: MadeTenant, support: Account, name: str
) -> None:
    with told.app.app_context(), db.scoped(IdentityScope()):
        misnamed = directory.create_user(name.format(uuid4().hex)).id
        db.session.commit()
    grant = add_grant(told.app, replace(support, id=misnamed), tenant)
    tell(told.app, "denied", grant)
    send(told.app)
    assert mailbox.recipients == []
    (waiting,) = (row for row in rows(told.app, grant.id) if row.recipient)
    assert waiting.problem


def test_who_has_sent_long_enough_leaves_the_rest_to_another(
    told: NotifyingApp,
    hooks: Hooks,
    tenant: MadeTenant,
    support: Account,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(task, "SENDING", 0)
    monkeypatch.setattr(notices, "send_soon", lambda: asked.append("again"))
    for _ in range(2):
        tell(told.app, "denied", add_grant(told.app, support, tenant))
    assert asked == ["again"] * 2  # each commit of a notice has it sent
    asked.clear()
    send(told.app)
    assert asked == ["again"]
    assert len(hooks.bodies) < 2
    while asked:
        asked.clear()
        send(told.app)
    assert len(hooks.bodies) == 2


def test_beat_asks_each_minute() -> None:
    (entry,) = [e for e in celeryconfig.beat_schedule.values() if e["task"] == "notices.send"]
    assert entry["schedule"] == crontab(minute="*")
