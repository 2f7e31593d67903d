"""Until when an answer to a service holds: no longer than anything that it rests on."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from tests.audit.ledgers import owner_connection
from tests.audit.receipts import receipt, wait_for
from tests.elevations.calls import answered, ask, question
from tests.elevations.conftest import MakeRule
from tests.elevations.test_elevations import grant
from tests.elevations.test_idempotency import REPLAYED
from tests.factories import Account, MadeTenant
from tests.grants.calls import add_request, perform
from webapp.caching import invalidate
from webapp.db.scopes import MaintenanceScope
from webapp.elevations import service as elevations
from webapp.extensions import db
from webapp.grants.active import holder_tag
from webapp.rules.engine.until import DAY

MINUTE = timedelta(minutes=1)
EVERY_DAY = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def until_of(answer: dict[str, Any]) -> datetime:
    """Until when an answer that came just now allows the access; its minutes must say the same."""
    until = datetime.fromisoformat(answer["until"])
    assert timedelta() <= until - datetime.now(UTC) - answer["minutes"] * MINUTE < MINUTE
    return until


@pytest.fixture
def stranger(make_rule: MakeRule) -> Callable[..., str]:
    """Make a rule that allows a stranger the surface, whom no other rule concerns."""

    def make(**rule: Any) -> str:
        email = f"{uuid4().hex}@stranger.example"
        make_rule("allow", subjects={"users": [email]}, **rule)
        return email

    return make


def test_two_minute_approval_ends_in_two_minutes_for_a_service(
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    admin: Account,
    engineer: Account,
    surface: str,
    make_rule: MakeRule,
) -> None:
    make_rule("require_approval", admin, max_minutes=240)
    asked = add_request(client, engineer, tenant, surfaces=[surface], minutes=2)
    approved = perform(client, admin, "approve", asked)
    answer = answered(client, service, question(engineer.email, tenant, surface=surface))
    assert answer["grants"] == [approved["id"]]
    assert until_of(answer) == datetime.fromisoformat(approved["ends_at"])
    assert answer["minutes"] == 1


def test_answer_by_break_glass_ends_with_the_incident(
    app: Flask,
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    engineer: Account,
    surface: str,
    make_rule: MakeRule,
) -> None:
    make_rule("allow", subjects={"roles": ["engineer"]}, reasons=["break_glass"], max_minutes=30)
    body = question(engineer.email, tenant, "break_glass", surface=surface)
    first = answered(client, service, body)
    assert first["minutes"] == 29
    ends = datetime.now(UTC) + 9 * MINUTE
    with owner_connection(app) as owner:
        owner.exec_driver_sql("alter table grants no force row level security")
        moved = text("update grants set ends_at = :ends where id = :id")
        owner.execute(moved, {"ends": ends, "id": first["grants"][0]})
        owner.exec_driver_sql("alter table grants force row level security")
    with app.app_context(), db.scoped(MaintenanceScope()):
        invalidate(holder_tag(engineer.id))
        db.session.commit()
    second = answered(client, service, body)
    assert second["grants"] == first["grants"]
    assert until_of(second) == ends


def test_answer_ends_with_its_rule(
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    surface: str,
    stranger: Callable[..., str],
) -> None:
    ends = datetime.now(UTC) + 2 * MINUTE
    body = question(stranger(ends_at=ends.isoformat(), max_minutes=240), tenant, surface=surface)
    assert until_of(answered(client, service, body)) == ends


def test_answer_ends_when_the_window_of_its_rule_closes(
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    surface: str,
    stranger: Callable[..., str],
) -> None:
    closes = datetime.now(UTC).replace(second=0, microsecond=0) + 2 * MINUTE
    opened = closes - timedelta(hours=1)
    window = {"days": EVERY_DAY, "from": f"{opened:%H:%M}", "to": f"{closes:%H:%M}", "tz": "UTC"}
    body = question(stranger(windows=[window], max_minutes=240), tenant, surface=surface)
    assert until_of(answered(client, service, body)) == closes


def test_answer_ends_when_a_rule_begins_that_denies(
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    admin: Account,
    engineer: Account,
    surface: str,
    make_rule: MakeRule,
) -> None:
    starts = datetime.now(UTC) + 2 * MINUTE
    make_rule("deny", admin, starts_at=starts.isoformat())
    answer = answered(client, service, question(engineer.email, tenant, surface=surface))
    assert until_of(answer) == starts


@pytest.mark.parametrize("limit", [20, None, 7 * 24 * 60])
def test_answer_holds_as_long_as_its_rule_lets_it_but_no_longer_than_a_day(
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    surface: str,
    stranger: Callable[..., str],
    limit: int | None,
) -> None:
    body = question(stranger(max_minutes=limit), tenant, surface=surface)
    before = datetime.now(UTC)
    until = datetime.fromisoformat(answered(client, service, body)["until"])
    lasts = DAY if limit is None or limit > 1440 else limit * MINUTE
    assert before + lasts <= until <= datetime.now(UTC) + lasts


def test_answer_that_allows_nothing_has_no_moment(
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    admin: Account,
    engineer: Account,
    surface: str,
    make_rule: MakeRule,
) -> None:
    make_rule("require_approval", admin)
    for email in (engineer.email, "nobody@stranger.example"):
        answer = answered(client, service, question(email, tenant, surface=surface))
        assert answer["decision"] != "allowed"
        assert (answer["until"], answer["minutes"]) == (None, None)


def test_stored_answer_is_told_until_it_ends_and_then_refused(
    app: Flask,
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    admin: Account,
    engineer: Account,
    surface: str,
    make_rule: MakeRule,
) -> None:
    make_rule("require_approval", admin)
    grant(app, engineer, tenant, surface, admin, lasts=timedelta(seconds=3))
    key, body = uuid4().hex, question(engineer.email, tenant, surface=surface)
    first = ask(client, service, body, key)
    again = ask(client, service, body, key)
    assert (again.data, again.headers[REPLAYED]) == (first.data, "true")
    until = datetime.fromisoformat(first.get_json()["until"])
    wait_for(lambda: ask(client, service, body, key).status_code == 409)
    assert datetime.now(UTC) >= until
    ended = ask(client, service, body, key)
    assert (ended.status_code, ended.get_json()["code"]) == (409, "expired")
    assert ask(client, service, body).get_json()["decision"] == "approval_required"


def test_grant_that_ends_while_the_answer_waits_for_its_key_does_not_count(
    app: Flask,
    client: FlaskClient,
    service: Account,
    tenant: MadeTenant,
    admin: Account,
    engineer: Account,
    surface: str,
    make_rule: MakeRule,
) -> None:
    make_rule("require_approval", admin)
    grant(app, engineer, tenant, surface, admin, lasts=timedelta(seconds=2))
    ends = datetime.now(UTC) + timedelta(seconds=2)
    claim = elevations._claim

    def claim_late(*arguments: Any) -> bool:
        wait_for(lambda: datetime.now(UTC) > ends)
        return claim(*arguments)

    body = question(engineer.email, tenant, surface=surface)
    with mock.patch.object(elevations, "_claim", claim_late):
        response = ask(client, service, body)
    assert response.get_json()["decision"] == "approval_required"
    assert receipt(response) == [UUID(response.get_json()["receipt"])]
