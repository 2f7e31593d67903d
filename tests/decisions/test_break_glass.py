"""Break-glass over HTTP: an incident opens, people are notified, it ends and is reviewed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from werkzeug.test import TestResponse

from tests.audit.receipts import committed, receipt, wait_for
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.grants.calls import PATH, SURFACE, problem, require_approval
from tests.grants.notices.channels import (
    Mailbox,
    NotifyingApp,
    add_grant,
    change_notices,
    end,
    notifying_app,
    receiving_hooks,
    receiving_mail,
    rows,
)
from tests.processes import run_worker
from tests.rules.calls import PATH as RULES
from tests.rules.calls import add_rule
from webapp.audit.journal.service import Journal, JournalFailed
from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db
from webapp.grants.models import GrantRow

BREAK_GLASS = 'break_glass;ticket="INC-9";note="nobody answers"'


@pytest.fixture(scope="module")
def notifying(app: Flask) -> Iterator[NotifyingApp]:
    with notifying_app(app) as made:
        yield made


@pytest.fixture(scope="module")
def notifying_worker(
    notifying: NotifyingApp, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A worker with the broker and the mail server of `notifying`."""
    settings = notifying.app.extensions["settings"]
    own = {
        "CELERY_BROKER_URL": settings.celery_broker_url,
        "SMTP_URL": settings.smtp_url,
        "MAIL_FROM": settings.mail_from,
        "WEBHOOK_URL": settings.webhook_url,
        "WEBHOOK_SECRET": settings.webhook_secret,
    }
    log = tmp_path_factory.mktemp("teller") / "worker.log"
    with run_worker(environment | own, log):
        yield


@pytest.fixture(autouse=True)
def _no_pending_notices(notifying: NotifyingApp) -> Iterator[None]:
    yield
    change_notices(notifying.app, due_at=None)


@pytest.fixture
def client(notifying: NotifyingApp) -> FlaskClient:
    return notifying.app.test_client()


@pytest.fixture
def breaker(client: FlaskClient, owner: Account, support: Account) -> Account:
    """A support agent whom a platform rule allows break-glass."""
    return let_break_glass(client, owner, support)


def let_break_glass(client: FlaskClient, owner: Account, who: Account) -> Account:
    add_rule(
        client,
        owner.headers("global", INCIDENT),
        f"break-glass for {who.email}",
        effect="allow",
        subjects={"roles": [], "users": [who.email]},
        surfaces=["admin.rules.*"],
        reasons=["break_glass"],
        max_minutes=20,
    )
    return who


@pytest.fixture
def approval(client: FlaskClient, admin: Account, breaker: Account) -> dict[str, Any]:
    return ask_first(client, admin, breaker)


def ask_first(client: FlaskClient, admin: Account, breaker: Account) -> dict[str, Any]:
    """A tenant's rule that requires an approval of the breaker only, so that other tests pass."""
    only_breaker = {"roles": [], "users": [breaker.email]}
    return require_approval(
        client, admin.headers(), subjects=only_breaker, surfaces=["admin.rules.*"]
    )


def access(
    client: FlaskClient, who: Account, tenant: MadeTenant | None, path: str = RULES
) -> TestResponse:
    scope = "global" if tenant is None else f"tenant:{tenant.slug}"
    return client.get(path, headers=who.headers(scope, BREAK_GLASS))


def incidents(app: Flask, who: Account) -> list[GrantRow]:
    with app.app_context(), db.scoped(MaintenanceScope()):
        own = GrantRow.principal_id == who.id
        found = list(db.session.scalars(select(GrantRow).where(own).order_by(GrantRow.id)))
        db.session.expunge_all()
    return found


def review(client: FlaskClient, who: Account, incident: GrantRow) -> TestResponse:
    path = f"{PATH}/{incident.id}/review"
    return client.post(path, headers=who.headers(), json={"text": "needed it"})


def test_break_glass_opens_an_incident_that_lasts_until_its_review(
    notifying: NotifyingApp,
    notifying_worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    breaker: Account,
    approval: dict[str, Any],
) -> None:
    app = notifying.app
    plain = client.get(RULES, headers=breaker.headers(f"tenant:{tenant.slug}", INCIDENT))
    assert problem(plain) == (403, "approval_required")

    with (
        receiving_mail(notifying.mail_port) as mailbox,
        receiving_hooks(notifying.hook_port) as hooks,
    ):
        seen = access(client, breaker, tenant)
        assert seen.status_code == 200
        assert [rule["id"] for rule in seen.get_json()["items"]] == [approval["id"]]
        wait_for(lambda: admin.email in mailbox.recipients and bool(hooks.bodies))
    (mail,) = (mail for mail in mailbox.mails if mail["To"] == admin.email)
    assert mail["Subject"] == f"{breaker.email} used break-glass to access {tenant.slug}"
    assert "nobody answers" in mail.get_content()
    assert hooks.bodies[0]["type"] == "grant.break_glass"

    (incident,) = incidents(app, breaker)
    assert (incident.kind, incident.state, incident.minutes) == ("break_glass", "approved", 20)
    assert (incident.tenant_id, incident.ticket) == (tenant.id, "INC-9")
    listed = client.get(PATH, headers=admin.headers()).get_json()["items"]
    assert [grant["id"] for grant in listed] == [str(incident.id)]
    opening, accessing = committed(app, *receipt(seen))
    assert (opening["surface"], opening["kind"]) == ("grants.break_glass", "change")
    assert (accessing["surface"], accessing["kind"]) == (SURFACE, "access")
    for event in (opening, accessing):
        assert event["decision"]["grant_ids"] == [str(incident.id)]
        assert event["scope"]["tenant_id"] == str(tenant.id)

    again = access(client, breaker, tenant)
    assert again.status_code == 200
    (accessing,) = committed(app, *receipt(again))
    assert accessing["decision"]["grant_ids"] == [str(incident.id)]

    end(app, incident.id)
    assert "review" in _refused(access(client, breaker, tenant))
    assert problem(review(client, breaker, incident)) == (403, "forbidden")
    assert "review" in _refused(access(client, breaker, tenant))
    reviewed = review(client, admin, incident)
    assert reviewed.status_code == 200, reviewed.text
    assert problem(review(client, admin, incident)) == (409, "conflict")
    assert access(client, breaker, tenant).status_code == 200
    assert len(incidents(app, breaker)) == 2


def _refused(response: TestResponse) -> str:
    body = response.get_json()
    assert response.status_code == 403, body
    assert (body["code"], body["rules"]) == ("elevation_denied", [])
    return str(body["detail"])


def test_open_incident_allows_no_other_tenant(
    notifying: NotifyingApp,
    client: FlaskClient,
    tenant: MadeTenant,
    breaker: Account,
    approval: dict[str, Any],
) -> None:
    assert access(client, breaker, tenant).status_code == 200
    second = add_tenant(notifying.app)
    for other in (second, None):
        assert tenant.slug in _refused(access(client, breaker, other))
    assert access(client, breaker, tenant).status_code == 200
    assert len(incidents(notifying.app, breaker)) == 1


def test_incident_for_all_tenants_allows_no_single_tenant(
    notifying: NotifyingApp,
    client: FlaskClient,
    tenant: MadeTenant,
    breaker: Account,
    approval: dict[str, Any],
) -> None:
    """However often it is used, there is one incident for all tenants."""
    assert access(client, breaker, None).status_code == 200
    for other in (tenant, add_tenant(notifying.app)):
        assert "all tenants" in _refused(access(client, breaker, other))
    assert access(client, breaker, None).status_code == 200
    (incident,) = incidents(notifying.app, breaker)
    assert (incident.tenant_id, incident.state) == (None, "approved")
    shown = client.get(f"{PATH}/{incident.id}", headers=breaker.headers()).get_json()
    assert (shown["kind"], shown["tenant"]) == ("break_glass", None)


def test_incident_for_all_tenants_is_recorded_with_the_global_scope(
    notifying: NotifyingApp, notifying_worker: None, client: FlaskClient, breaker: Account
) -> None:
    opening, accessing = committed(notifying.app, *receipt(access(client, breaker, None)))
    (incident,) = incidents(notifying.app, breaker)
    for event in (opening, accessing):
        assert event["scope"] == {"kind": "global", "tenant": None, "tenant_id": None}
        assert event["decision"]["grant_ids"] == [str(incident.id)]


def test_break_glass_does_not_bypass_a_denial(
    notifying: NotifyingApp,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    breaker: Account,
) -> None:
    only_breaker = {"roles": [], "users": [breaker.email]}
    denial = add_rule(client, admin.headers(), subjects=only_breaker, surfaces=[SURFACE])
    refused = access(client, breaker, tenant)
    assert (refused.status_code, refused.get_json()["rules"]) == (403, [denial["id"]])
    assert incidents(notifying.app, breaker) == []


def test_break_glass_without_an_allow_rule_is_denied(
    notifying: NotifyingApp, client: FlaskClient, tenant: MadeTenant, support: Account
) -> None:
    assert access(client, support, tenant).status_code == 403
    assert incidents(notifying.app, support) == []


def test_break_glass_for_an_unknown_tenant_opens_no_incident(
    notifying: NotifyingApp, client: FlaskClient, breaker: Account
) -> None:
    missing = MadeTenant(UUID(int=1), "nobody-has-this-slug")
    assert access(client, breaker, missing).status_code == 404
    assert incidents(notifying.app, breaker) == []


def test_concurrent_break_glass_requests_open_one_incident(
    notifying: NotifyingApp,
    client: FlaskClient,
    tenant: MadeTenant,
    breaker: Account,
    approval: dict[str, Any],
) -> None:
    racers = 6
    barrier = Barrier(racers)

    def race(_: int) -> TestResponse:
        own_client = notifying.app.test_client()
        barrier.wait()
        return access(own_client, breaker, tenant)

    with ThreadPoolExecutor(racers) as pool:
        answers = list(pool.map(race, range(racers)))
    assert [answer.status_code for answer in answers] == [200] * racers
    (incident,) = incidents(notifying.app, breaker)
    assert len([row for row in rows(notifying.app, incident.id) if row.channel == "webhook"]) == 1
    # The answer to the request that opened the incident has two receipts.
    assert sorted(len(receipt(answer)) for answer in answers) == [1] * (racers - 1) + [2]


def test_break_glass_that_cannot_be_recorded_opens_no_incident(
    notifying: NotifyingApp,
    client: FlaskClient,
    tenant: MadeTenant,
    breaker: Account,
    approval: dict[str, Any],
) -> None:
    with mock.patch.object(Journal, "begin_durably", side_effect=JournalFailed):
        refused = access(client, breaker, tenant)
    assert problem(refused) == (503, "audit_unavailable")
    assert incidents(notifying.app, breaker) == []
    assert access(client, breaker, tenant).status_code == 200


@pytest.mark.slow
def test_tenants_whose_approvals_are_bypassed_are_notified_once_each(
    notifying: NotifyingApp,
    notifying_worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    owner: Account,
    breaker: Account,
    approval: dict[str, Any],
) -> None:
    app = notifying.app
    other, quiet = add_tenant(app), add_tenant(app)
    others_admin = add_account(app, member_of={other.slug: "admin"})
    quiet_admin = add_account(app, member_of={quiet.slug: "admin"})
    only_breaker = {"roles": [], "users": [breaker.email]}
    require_approval(
        client, others_admin.headers(), subjects=only_breaker, surfaces=["admin.rules.read"]
    )

    with receiving_mail(notifying.mail_port) as mailbox:
        assert access(client, breaker, None).status_code == 200
        _wait_until_notified(app, breaker)
        told = _told_of(breaker, mailbox)
        assert {admin.email, owner.email} <= set(told)
        assert not {others_admin.email, quiet_admin.email} & set(told)
        # On another surface, the same incident bypasses the approval of another tenant.
        for _ in range(2):
            assert access(client, breaker, None, f"{RULES}/{approval['id']}").status_code == 200
        _wait_until_notified(app, breaker)
    (incident,) = incidents(app, breaker)
    assert incident.tenant_id is None
    # Tenants of other tests may require an approval too.
    assert {tenant.id, other.id} <= set(incident.bypassed_approvals)
    assert quiet.id not in incident.bypassed_approvals
    assert len(set(incident.bypassed_approvals)) == len(incident.bypassed_approvals)
    told = _told_of(breaker, mailbox)
    assert told.count(others_admin.email) == 1
    assert told.count(admin.email) == 1
    assert quiet_admin.email not in told


def _told_of(breaker: Account, mailbox: Mailbox) -> list[str]:
    """Who got a mail about this break-glass. Admins also get one when they become it."""
    return [
        address
        for addresses, mail in mailbox.envelopes
        if breaker.email in mail["Subject"]
        for address in addresses
    ]


def _wait_until_notified(app: Flask, breaker: Account) -> None:
    """Wait until the worker has sent the mails."""
    (incident,) = incidents(app, breaker)
    wait_for(lambda: all(r.sent_at for r in rows(app, incident.id) if r.channel == "mail"))


@pytest.mark.parametrize("role", ["auditor", "owner"])
def test_auditors_and_owners_may_review_an_incident(
    notifying: NotifyingApp, client: FlaskClient, tenant: MadeTenant, breaker: Account, role: Any
) -> None:
    assert access(client, breaker, tenant).status_code == 200
    (incident,) = incidents(notifying.app, breaker)
    reviewer = add_account(notifying.app, role)
    assert problem(review(client, reviewer, incident)) == (409, "conflict")  # the incident is open
    revoked = client.post(f"{PATH}/{incident.id}/revoke", headers=breaker.headers())
    assert revoked.status_code == 200
    assert "review" in _refused(access(client, breaker, tenant))
    assert review(client, reviewer, incident).status_code == 200
    (incident,) = incidents(notifying.app, breaker)
    assert (incident.reviewed_by, incident.review) == (reviewer.email, "needed it")


@pytest.mark.parametrize("role", ["auditor", "owner"])
def test_reviewer_may_not_review_their_own_incident(
    notifying: NotifyingApp, client: FlaskClient, tenant: MadeTenant, owner: Account, role: Any
) -> None:
    breaker = let_break_glass(client, owner, add_account(notifying.app, role))
    assert access(client, breaker, tenant).status_code == 200
    (incident,) = incidents(notifying.app, breaker)
    end(notifying.app, incident.id)
    assert problem(review(client, breaker, incident)) == (403, "forbidden")
    assert "review" in _refused(access(client, breaker, tenant))


def test_review_by_anybody_else_is_refused(
    notifying: NotifyingApp,
    client: FlaskClient,
    tenant: MadeTenant,
    breaker: Account,
    outsider: Account,
) -> None:
    assert access(client, breaker, tenant).status_code == 200
    (incident,) = incidents(notifying.app, breaker)
    end(notifying.app, incident.id)
    colleague = add_account(notifying.app, "support")
    member = add_account(notifying.app, member_of={tenant.slug: "member"})
    assert review(client, colleague, incident).status_code == 403
    assert review(client, member, incident).status_code in (403, 404)
    assert problem(review(client, outsider, incident)) == (404, "not_found")
    assert incidents(notifying.app, breaker)[0].reviewed_at is None


def test_grant_other_than_break_glass_cannot_be_reviewed(
    notifying: NotifyingApp,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
) -> None:
    request = add_grant(notifying.app, support, tenant)
    path = f"{PATH}/{request.id}/review"
    response = client.post(path, headers=admin.headers(), json={"text": "?"})
    assert problem(response) == (409, "conflict")
