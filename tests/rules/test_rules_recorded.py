"""Audit events of accesses to the rules' surfaces."""

import time
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from werkzeug.test import TestResponse

from tests.factories import INCIDENT, Account, MadeTenant
from tests.rules.calls import PATH, add_rule, draft, etag, of
from webapp.audit.models import AuditEventRow
from webapp.db.scopes import TenantScope
from webapp.extensions import db

PATIENCE = 180

pytestmark = pytest.mark.usefixtures("worker")


def _event(app: Flask, tenant: MadeTenant, response: TestResponse) -> tuple[object, ...]:
    """Wait for the event of a response's receipt; return its kind, surface, outcome and rows."""
    event_id = UUID(response.headers["Sightline-Audit"])
    deadline = time.monotonic() + PATIENCE
    found = None
    while found is None:
        assert time.monotonic() < deadline, "the event was never committed"
        with app.app_context(), db.scoped(TenantScope(tenant.id)):
            found = db.session.scalar(
                select(AuditEventRow.event).where(AuditEventRow.id == event_id)
            )
    return found["kind"], found["surface"], found["outcome"], found["rows"]


def test_event_of_an_access_counts_the_rules_shown(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account, owner: Account
) -> None:
    rules = [add_rule(client, admin.headers(), name) for name in ("a", "b", "c")]
    headers = owner.headers(f"tenant:{tenant.slug}", INCIDENT)

    computed = client.get(PATH, headers=headers)
    cached = client.get(PATH, headers=headers)
    unchanged = client.get(PATH, headers=headers | {"If-None-Match": cached.headers["ETag"]})
    assert unchanged.status_code == 304
    for response, shown in ((computed, 3), (cached, 3), (unchanged, 0)):
        access = ("access", "admin.rules.list", "served", shown)
        assert _event(app, tenant, response) == access
    one = client.get(of(rules[0]), headers=headers)
    assert _event(app, tenant, one) == ("access", "admin.rules.read", "served", 1)
    history = client.get(f"{of(rules[0])}/history", headers=headers)
    assert _event(app, tenant, history) == ("access", "admin.rules.history", "served", 1)


def test_rule_change_is_recorded_whether_it_succeeds_or_fails(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    headers = admin.headers()
    created = client.post(PATH, headers=headers, json=draft())
    rule = created.get_json()
    assert _event(app, tenant, created) == ("change", "admin.rules.create", "served", 1)
    again = client.post(PATH, headers=headers, json=draft())
    assert _event(app, tenant, again) == ("change", "admin.rules.create", "failed", None)
    known = headers | {"If-Match": etag(rule)}
    changed = client.patch(of(rule), headers=known, json={"mfa": True})
    assert _event(app, tenant, changed) == ("change", "admin.rules.update", "served", 1)
    stale = client.delete(of(rule), headers=known)
    assert _event(app, tenant, stale) == ("change", "admin.rules.delete", "failed", None)
