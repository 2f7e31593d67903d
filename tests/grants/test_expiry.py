"""Expiry: requests and grants that are over end without a request, and are recorded once."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
from celery.schedules import crontab
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

import celeryconfig
import tasks  # noqa: F401 - registers the task
from tests.audit.ledgers import ledger_session
from tests.audit.receipts import second_connection, wait_for
from tests.factories import Account, MadeTenant
from tests.grants.calls import access, add_request, of, perform
from webapp.audit.append import OWN_JOURNAL, append_own
from webapp.audit.models import AuditEventRow
from webapp.db.scopes import MaintenanceScope
from webapp.extensions import db
from webapp.grants.models import GrantRow
from webapp.ledger import completeness

AGO = timedelta(minutes=5)


def expire(app: Flask) -> None:
    """Run the task as a worker does."""
    app.extensions["celery"].tasks["grants.expire"].apply(throw=True)


def let_end(app: Flask, *grants: dict[str, Any], at: datetime | None = None) -> datetime:
    ends_at = at or datetime.now(UTC) - AGO
    with app.app_context(), db.scoped(MaintenanceScope()):
        for grant in grants:
            db.session.get_one(GrantRow, UUID(grant["id"])).ends_at = ends_at
        db.session.commit()
    return ends_at


def state_of(client: FlaskClient, who: Account, grant: dict[str, Any]) -> str:
    state: str = client.get(of(grant), headers=who.headers()).get_json()["state"]
    return state


def to_millisecond(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def expiries(app: Flask, grant: dict[str, Any]) -> list[Mapping[str, Any]]:
    """The events of a grant's expiry in the ledger."""
    with second_connection(app) as session:
        statement = select(AuditEventRow.event).where(
            AuditEventRow.surface == "grants.expire",
            AuditEventRow.event["decision"]["grant_ids"][0].as_string() == grant["id"],
        )
        return list(session.scalars(statement))


def own_numbers(app: Flask) -> list[int]:
    with second_connection(app) as session:
        is_own = AuditEventRow.origin_journal == OWN_JOURNAL
        numbers = select(AuditEventRow.origin_seq).where(is_own)
        return list(session.scalars(numbers.order_by(AuditEventRow.origin_seq)))


def test_expired_grant_is_recorded_as_an_event(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    request_: dict[str, Any],
) -> None:
    perform(client, admin, "approve", request_)
    assert access(client, support, tenant).status_code == 200
    ends_at = let_end(app, request_)
    expire(app)
    assert state_of(client, support, request_) == "expired"
    assert access(client, support, tenant).status_code == 403
    (event,) = expiries(app, request_)
    assert (event["kind"], event["outcome"], event["http_status"]) == ("change", "served", None)
    assert event["actor"]["email"] == "sightline"
    assert (event["actor"]["id"], event["actor"]["roles"]) == (str(UUID(int=0)), [])
    assert (event["scope"]["tenant"], event["scope"]["tenant_id"]) == (tenant.slug, str(tenant.id))
    assert event["reason"] == {"code": "incident", "note": None, "ticket": "INC-1"}
    assert datetime.fromisoformat(event["occurred_at"]) == to_millisecond(ends_at)
    assert (event["request"]["method"], event["request"]["path"]) == ("TASK", "grants.expire")
    shown = client.get(
        "/admin/api/audits", headers=admin.headers(), query_string={"surface": "grants.expire"}
    )
    assert [item["id"] for item in shown.get_json()["items"]] == [event["id"]]


def test_undecided_request_expires(
    app: Flask, client: FlaskClient, support: Account, request_: dict[str, Any]
) -> None:
    let_end(app, request_)
    expire(app)
    assert state_of(client, support, request_) == "expired"
    assert len(expiries(app, request_)) == 1


def test_grants_that_are_open_or_closed_do_not_expire(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    request_: dict[str, Any],
) -> None:
    denied = perform(client, admin, "deny", add_request(client, support, tenant))
    let_end(app, denied)
    perform(client, admin, "approve", request_)
    expire(app)
    assert state_of(client, support, request_) == "approved"
    assert state_of(client, support, denied) == "denied"
    assert expiries(app, request_) == expiries(app, denied) == []


def test_expiry_is_recorded_once_by_concurrent_workers(
    app: Flask,
    other_app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    support: Account,
    rule: dict[str, Any],
) -> None:
    assert rule
    grants = [add_request(client, support, tenant) for _ in range(12)]
    let_end(app, *grants)
    together = Barrier(4)

    def one(process: Flask) -> None:
        together.wait()
        with mock.patch("webapp.grants.expiry.BATCH", 3):
            expire(process)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(one, [app, other_app, app, other_app]))
    expire(app)
    assert [len(expiries(app, grant)) for grant in grants] == [1] * 12
    numbers = own_numbers(app)
    assert numbers == list(range(1, len(numbers) + 1))


def test_failed_expiry_changes_and_records_nothing(
    app: Flask, client: FlaskClient, support: Account, request_: dict[str, Any]
) -> None:
    let_end(app, request_)

    def die(*arguments: Any) -> None:
        append_own(*arguments)
        raise SystemError

    with mock.patch("webapp.audit.append.append_own", die), pytest.raises(SystemError):
        expire(app)
    assert (state_of(client, support, request_), expiries(app, request_)) == ("requested", [])
    expire(app)
    assert state_of(client, support, request_) == "expired"
    assert len(expiries(app, request_)) == 1


def test_expiry_is_recorded_in_a_month_without_a_partition(
    app: Flask, client: FlaskClient, support: Account, request_: dict[str, Any]
) -> None:
    ends_at = let_end(app, request_, at=datetime(2019, 3, 31, 23, 59, 59, 999999, UTC))
    expire(app)
    (event,) = expiries(app, request_)
    assert datetime.fromisoformat(event["occurred_at"]) == to_millisecond(ends_at)
    assert state_of(client, support, request_) == "expired"


def test_expiry_events_have_complete_numbers(
    app: Flask, support: Account, request_: dict[str, Any]
) -> None:
    let_end(app, request_)
    expire(app)
    with ledger_session(app) as session:
        directory = app.extensions["settings"].journal_dir
        found = completeness.check_completeness(session, directory)
    assert [gap for gap in found.missing if gap.journal == OWN_JOURNAL] == []
    assert own_numbers(app)


def test_beat_schedules_expiry_every_minute_and_a_worker_runs_it(
    app: Flask, worker: None, client: FlaskClient, support: Account, request_: dict[str, Any]
) -> None:
    (entry,) = [e for e in celeryconfig.beat_schedule.values() if e["task"] == "grants.expire"]
    assert entry["schedule"] == crontab(minute="*")
    let_end(app, request_)
    app.extensions["celery"].send_task("grants.expire", ignore_result=True)
    wait_for(lambda: state_of(client, support, request_) == "expired")
    assert len(expiries(app, request_)) == 1
