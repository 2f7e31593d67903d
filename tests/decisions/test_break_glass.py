"""Using break-glass, through HTTP: it opens, is told, ends, and is reviewed by somebody else."""

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
from tests.grants.calls import PATH, SURFACE, problem, want_approval
from tests.grants.notices.channels import (
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
def told(app: Flask) -> Iterator[NotifyingApp]:
    with notifying_app(app) as made:
        yield made


@pytest.fixture(scope="module")
def teller(
    told: NotifyingApp, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A worker that has the same broker and mail server."""
    settings = told.app.extensions["settings"]
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
def _nothing_left(told: NotifyingApp) -> Iterator[None]:
    yield
    change_notices(told.app, due_at=None)


@pytest.fixture
def client(told: NotifyingApp) -> FlaskClient:
    return told.app.test_client()


@pytest.fixture
def breaker(client: FlaskClient, owner: Account, support: Account) -> Account:
    """Support, whom the platform lets use break-glass."""
    return let_break_glass(client, owner, support)


def let_break_glass(client: FlaskClient, owner: Account, who: Account) -> Account:
    add_rule(
        client,
        owner.headers("global", INCIDENT),
        f"glass for {who.email}",
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
    """The tenant wants an approval of the breaker: of others too, others' tests would miss it."""
    mine = {"roles": [], "users": [breaker.email]}
    return want_approval(client, admin.headers(), subjects=mine, surfaces=["admin.rules.*"])


def access(
    client: FlaskClient, who: Account, tenant: MadeTenant | None, path: str = RULES
) -> TestResponse:
    scope = "global" if tenant is None else f"tenant:{tenant.slug}"
    return client.get(path, headers=who.headers(scope, BREAK_GLASS))


def incidents(app: Flask, who: Account) -> list[GrantRow]:
    with app.app_context(), db.scoped(MaintenanceScope()):
        mine = GrantRow.principal_id == who.id
        found = list(db.session.scalars(select(GrantRow).where(mine).order_by(GrantRow.id)))
        db.session.expunge_all()
    return found


def review(client: FlaskClient, who: Account, incident: GrantRow) -> TestResponse:
    path = f"{PATH}/{incident.id}/review"
    return client.post(path, headers=who.headers(), json={"text": "needed it"})


def test_from_the_break_glass_to_its_review(
    told: NotifyingApp,
    teller: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    breaker: Account,
    approval: dict[str, Any],
) -> None:
    app = told.app
    plain = client.get(RULES, headers=breaker.headers(f"tenant:{tenant.slug}", INCIDENT))
    assert problem(plain) == (403, "approval_required")

    with receiving_mail(told.mail_port) as mailbox, receiving_hooks(told.hook_port) as hooks:
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


def test_another_tenant_takes_another_incident(
    told: NotifyingApp,
    client: FlaskClient,
    tenant: MadeTenant,
    breaker: Account,
    approval: dict[str, Any],
) -> None:
    assert access(client, breaker, tenant).status_code == 200
    second = add_tenant(told.app)
    for other in (second, None):
        assert tenant.slug in _refused(access(client, breaker, other))
    assert access(client, breaker, tenant).status_code == 200
    assert len(incidents(told.app, breaker)) == 1


def test_break_glass_for_all_tenants_opens_no_single_one(
    told: NotifyingApp,
    client: FlaskClient,
    tenant: MadeTenant,
    breaker: Account,
    approval: dict[str, Any],
) -> None:
    """And what it opens is one incident of all of them, whoever asks for it and however often."""
    assert access(client, breaker, None).status_code == 200
    for other in (tenant, add_tenant(told.app)):
        assert "all tenants" in _refused(access(client, breaker, other))
    assert access(client, breaker, None).status_code == 200
    (incident,) = incidents(told.app, breaker)
    assert (incident.tenant_id, incident.state) == (None, "approved")
    shown = client.get(f"{PATH}/{incident.id}", headers=breaker.headers()).get_json()
    assert (shown["kind"], shown["tenant"]) == ("break_glass", None)


def test_break_glass_for_all_tenants_is_recorded_as_of_all_of_them(
    told: NotifyingApp, teller: None, client: FlaskClient, breaker: Account
) -> None:
    opening, accessing = committed(told.app, *receipt(access(client, breaker, None)))
    (incident,) = incidents(told.app, breaker)
    for event in (opening, accessing):
        assert event["scope"] == {"kind": "global", "tenant": None, "tenant_id": None}
        assert event["decision"]["grant_ids"] == [str(incident.id)]


def test_a_denial_holds(
    told: NotifyingApp, client: FlaskClient, tenant: MadeTenant, admin: Account, breaker: Account
) -> None:
    mine = {"roles": [], "users": [breaker.email]}
    denial = add_rule(client, admin.headers(), subjects=mine, surfaces=[SURFACE])
    refused = access(client, breaker, tenant)
    assert (refused.status_code, refused.get_json()["rules"]) == (403, [denial["id"]])
    assert incidents(told.app, breaker) == []


def test_who_may_not_break_glass_does_not(
    told: NotifyingApp, client: FlaskClient, tenant: MadeTenant, support: Account
) -> None:
    assert access(client, support, tenant).status_code == 403
    assert incidents(told.app, support) == []


def test_what_is_not_there_opens_nothing(
    told: NotifyingApp, client: FlaskClient, breaker: Account
) -> None:
    missing = MadeTenant(UUID(int=1), "nobody-has-this-slug")
    assert access(client, breaker, missing).status_code == 404
    assert incidents(told.app, breaker) == []


def test_requests_that_race_open_one_incident(
    told: NotifyingApp,
    client: FlaskClient,
    tenant: MadeTenant,
    breaker: Account,
    approval: dict[str, Any],
) -> None:
    racers = 6
    barrier = Barrier(racers)

    def race(_: int) -> TestResponse:
        mine = told.app.test_client()
        barrier.wait()
        return access(mine, breaker, tenant)

    with ThreadPoolExecutor(racers) as pool:
        answers = list(pool.map(race, range(racers)))
    assert [answer.status_code for answer in answers] == [200] * racers
    (incident,) = incidents(told.app, breaker)
    assert len([row for row in rows(told.app, incident.id) if row.channel == "webhook"]) == 1
    # One of them has opened it, and says so.
    assert sorted(len(receipt(answer)) for answer in answers) == [1] * (racers - 1) + [2]


def test_what_cannot_be_recorded_opens_nothing(
    told: NotifyingApp,
    client: FlaskClient,
    tenant: MadeTenant,
    breaker: Account,
    approval: dict[str, Any],
) -> None:
    with mock.patch.object(Journal, "begin_durably", side_effect=JournalFailed):
        refused = access(client, breaker, tenant)
    assert problem(refused) == (503, "audit_unavailable")
    assert incidents(told.app, breaker) == []
    assert access(client, breaker, tenant).status_code == 200


@pytest.mark.slow
def test_at_all_tenants_those_passed_over_are_told_once_each(
    told: NotifyingApp,
    teller: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    owner: Account,
    breaker: Account,
    approval: dict[str, Any],
) -> None:
    app = told.app
    other, quiet = add_tenant(app), add_tenant(app)
    others_admin = add_account(app, member_of={other.slug: "admin"})
    quiet_admin = add_account(app, member_of={quiet.slug: "admin"})
    mine = {"roles": [], "users": [breaker.email]}
    want_approval(client, others_admin.headers(), subjects=mine, surfaces=["admin.rules.read"])

    with receiving_mail(told.mail_port) as mailbox:
        assert access(client, breaker, None).status_code == 200
        _wait_until_told(app, breaker)
        assert {admin.email, owner.email} <= set(mailbox.recipients)
        assert not {others_admin.email, quiet_admin.email} & set(mailbox.recipients)
        # Another surface, in the same incident, does without another's approval.
        for _ in range(2):
            assert access(client, breaker, None, f"{RULES}/{approval['id']}").status_code == 200
        _wait_until_told(app, breaker)
    (incident,) = incidents(app, breaker)
    assert incident.tenant_id is None
    # Tenants of other tests may have wanted an approval too.
    assert {tenant.id, other.id} <= set(incident.bypassed_approvals)
    assert quiet.id not in incident.bypassed_approvals
    assert len(set(incident.bypassed_approvals)) == len(incident.bypassed_approvals)
    assert mailbox.recipients.count(others_admin.email) == 1
    assert mailbox.recipients.count(admin.email) == 1
    assert quiet_admin.email not in mailbox.recipients


def _wait_until_told(app: Flask, breaker: Account) -> None:
    """By the worker, by mail."""
    (incident,) = incidents(app, breaker)
    wait_for(lambda: all(r.sent_at for r in rows(app, incident.id) if r.channel == "mail"))


@pytest.mark.parametrize("role", ["auditor", "owner"])
def test_the_platform_reviews_too(
    told: NotifyingApp, client: FlaskClient, tenant: MadeTenant, breaker: Account, role: Any
) -> None:
    assert access(client, breaker, tenant).status_code == 200
    (incident,) = incidents(told.app, breaker)
    reviewer = add_account(told.app, role)
    assert problem(review(client, reviewer, incident)) == (409, "conflict")  # it is open
    revoked = client.post(f"{PATH}/{incident.id}/revoke", headers=breaker.headers())
    assert revoked.status_code == 200
    assert "review" in _refused(access(client, breaker, tenant))
    assert review(client, reviewer, incident).status_code == 200
    (incident,) = incidents(told.app, breaker)
    assert (incident.reviewed_by, incident.review) == (reviewer.email, "needed it")


@pytest.mark.parametrize("role", ["auditor", "owner"])
def test_who_reviews_does_not_review_the_own(
    told: NotifyingApp, client: FlaskClient, tenant: MadeTenant, owner: Account, role: Any
) -> None:
    breaker = let_break_glass(client, owner, add_account(told.app, role))
    assert access(client, breaker, tenant).status_code == 200
    (incident,) = incidents(told.app, breaker)
    end(told.app, incident.id)
    assert problem(review(client, breaker, incident)) == (403, "forbidden")
    assert "review" in _refused(access(client, breaker, tenant))


def test_nobody_else_reviews(
    told: NotifyingApp, client: FlaskClient, tenant: MadeTenant, breaker: Account, outsider: Account
) -> None:
    assert access(client, breaker, tenant).status_code == 200
    (incident,) = incidents(told.app, breaker)
    end(told.app, incident.id)
    colleague = add_account(told.app, "support")
    member = add_account(told.app, member_of={tenant.slug: "member"})
    assert review(client, colleague, incident).status_code == 403
    assert review(client, member, incident).status_code in (403, 404)
    assert problem(review(client, outsider, incident)) == (404, "not_found")
    assert incidents(told.app, breaker)[0].reviewed_at is None


def test_only_break_glass_is_reviewed(
    told: NotifyingApp, client: FlaskClient, tenant: MadeTenant, admin: Account, support: Account
) -> None:
    asked = add_grant(told.app, support, tenant)
    path = f"{PATH}/{asked.id}/review"
    response = client.post(path, headers=admin.headers(), json={"text": "?"})
    assert problem(response) == (409, "conflict")
