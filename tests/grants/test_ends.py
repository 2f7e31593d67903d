"""The exact end of requests, grants and incidents: at that moment each is over for everybody."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient

import tasks  # noqa: F401 - registers the task
from tests.clocks import INSTANT, clock_at
from tests.factories import Account, MadeTenant, add_account
from tests.grants.calls import PATH, access, act, of, perform, problem
from tests.grants.notices.channels import add_grant
from tests.rules.calls import add_rule
from webapp.caching import invalidate
from webapp.db.scopes import MaintenanceScope
from webapp.decisions import break_glass, decide
from webapp.extensions import db
from webapp.grants import active, expiry, review, service
from webapp.grants.active import holder_tag
from webapp.grants.models import GrantRow

ENDS_AT = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
"""Later than the end of any grant of other tests."""


@contextmanager
def at(moment: datetime) -> Iterator[None]:
    """Set the clock of decisions and of grants to a moment."""
    with clock_at(moment, active, break_glass, decide, expiry, review, service):
        yield


def let_end(app: Flask, holder: Account, grant_id: UUID | str) -> None:
    """Let a grant end at `ENDS_AT`."""
    with app.app_context(), db.scoped(MaintenanceScope()):
        db.session.get_one(GrantRow, UUID(str(grant_id))).ends_at = ENDS_AT
        invalidate(holder_tag(holder.id))
        db.session.commit()


@pytest.fixture
def approved(
    app: Flask, client: FlaskClient, admin: Account, support: Account, request_: dict[str, Any]
) -> dict[str, Any]:
    grant = perform(client, admin, "approve", request_)
    let_end(app, support, grant["id"])
    return grant


@pytest.mark.parametrize("cached", [False, True], ids=["read anew", "cached"])
def test_grant_lets_nothing_through_at_its_end(
    client: FlaskClient,
    tenant: MadeTenant,
    support: Account,
    approved: dict[str, Any],
    cached: bool,
) -> None:
    """Neither if the grant is read then, nor if an earlier decision is cached."""
    assert approved
    if cached:
        with at(ENDS_AT - INSTANT):
            assert access(client, support, tenant).status_code == 200
    with at(ENDS_AT):
        assert problem(access(client, support, tenant)) == (403, "approval_required")


def test_grant_lets_accesses_through_until_just_before_its_end(
    client: FlaskClient, tenant: MadeTenant, support: Account, approved: dict[str, Any]
) -> None:
    assert approved
    with at(ENDS_AT - INSTANT):
        assert access(client, support, tenant).status_code == 200


@pytest.mark.parametrize("action", ["approve", "deny", "revoke"])
@pytest.mark.parametrize(("early", "status"), [(INSTANT, 200), (timedelta(0), 409)])
def test_request_cannot_be_decided_from_its_end_on(
    app: Flask,
    client: FlaskClient,
    admin: Account,
    support: Account,
    request_: dict[str, Any],
    action: str,
    early: timedelta,
    status: int,
) -> None:
    let_end(app, support, request_["id"])
    with at(ENDS_AT - early):
        assert act(client, admin, action, request_).status_code == status


@pytest.mark.parametrize(("early", "status"), [(INSTANT, 200), (timedelta(0), 409)])
def test_grant_cannot_be_revoked_from_its_end_on(
    client: FlaskClient,
    admin: Account,
    approved: dict[str, Any],
    early: timedelta,
    status: int,
) -> None:
    with at(ENDS_AT - early):
        assert act(client, admin, "revoke", approved).status_code == status


@pytest.mark.parametrize(("early", "state"), [(INSTANT, "approved"), (timedelta(0), "expired")])
def test_grant_expires_from_its_end_on(
    app: Flask,
    client: FlaskClient,
    support: Account,
    approved: dict[str, Any],
    early: timedelta,
    state: str,
) -> None:
    with at(ENDS_AT - early):
        app.extensions["celery"].tasks["grants.expire"].apply(throw=True)
    read = client.get(of(approved), headers=support.headers()).get_json()
    assert read["state"] == state


@pytest.fixture
def breaker(app: Flask, client: FlaskClient, owner: Account) -> Account:
    """A support agent whom a platform rule allows break-glass."""
    who = add_account(app, "support")
    add_rule(
        client,
        owner.headers("global", 'incident;ticket="INC-1"'),
        f"break-glass for {who.email}",
        effect="allow",
        subjects={"roles": [], "users": [who.email]},
        surfaces=["admin.rules.*"],
        reasons=["break_glass"],
    )
    return who


def open_incident(app: Flask, breaker: Account, tenant: MadeTenant | None) -> str:
    now = datetime.now(UTC)
    incident = add_grant(
        app,
        breaker,
        tenant,
        kind="break_glass",
        state="approved",
        surfaces=["*"],
        reason_code="break_glass",
        starts_at=now,
        ends_at=ENDS_AT,
    )
    return str(incident.id)


def break_in(client: FlaskClient, breaker: Account, tenant: MadeTenant | None) -> tuple[int, str]:
    scope = "global" if tenant is None else f"tenant:{tenant.slug}"
    headers = breaker.headers(scope, 'break_glass;ticket="INC-9"')
    answer = client.get("/admin/api/rules", headers=headers)
    return answer.status_code, answer.get_json().get("detail", "")


@pytest.mark.parametrize("everywhere", [False, True], ids=["one tenant", "all tenants"])
def test_incident_lets_nothing_through_from_its_end_on(
    app: Flask, client: FlaskClient, tenant: MadeTenant, breaker: Account, everywhere: bool
) -> None:
    where = None if everywhere else tenant
    open_incident(app, breaker, where)
    with at(ENDS_AT - INSTANT):
        assert break_in(client, breaker, where)[0] == 200
    with at(ENDS_AT):
        status, detail = break_in(client, breaker, where)
        assert status == 403
        assert "review" in detail


@pytest.mark.parametrize(("early", "status"), [(INSTANT, 409), (timedelta(0), 200)])
def test_incident_can_be_reviewed_from_its_end_on(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    breaker: Account,
    early: timedelta,
    status: int,
) -> None:
    incident = open_incident(app, breaker, tenant)
    with at(ENDS_AT - early):
        path = f"{PATH}/{incident}/review"
        answer = client.post(path, headers=admin.headers(), json={"text": "needed it"})
    assert answer.status_code == status
