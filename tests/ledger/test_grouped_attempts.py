"""A tenant's list: a stranger's refused attempts that are alike make one line of a page."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests import paging
from tests.audit.events import make_event
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from webapp.audit.append import append_own
from webapp.audit.event import Actor, AuditEvent, EventDecision, EventScope
from webapp.db.scopes import GlobalScope
from webapp.extensions import db
from webapp.ledger import search

PATH = "/admin/api/audits"
BEGIN = datetime(2026, 11, 3, 4, 5, 6, tzinfo=UTC)
WINDOW = {"from": "2026-11-03T04:05:06Z", "to": "2026-11-03T04:05:07Z"}
"""What only the events of these tests are in."""

LIST, READ = "admin.rules.list", "admin.rules.read"
DENIED = EventDecision("denied")
Kind = tuple[Actor, str, EventDecision]


def actor(*roles: str) -> Actor:
    return Actor(id=uuid4(), email=f"{uuid4().hex}@example.org", roles=roles, token_id=uuid4())


FIRST, SECOND, STAFF = actor("elsewhere:admin"), actor(), actor("support")


def add_events(app: Flask, tenant: MadeTenant, kinds: Sequence[Kind]) -> list[str]:
    """Add events of a tenant, a millisecond apart and the oldest first; return their ids."""
    scope = EventScope(kind="tenant", tenant=tenant.slug, tenant_id=tenant.id)
    events = [
        make_event(
            occurred_at=BEGIN + timedelta(milliseconds=number),
            actor=who,
            surface=surface,
            decision=decision,
            outcome="served" if decision.effect == "allowed" else "denied",
            http_status=200 if decision.effect == "allowed" else 403,
            scope=scope,
        )
        for number, (who, surface, decision) in enumerate(kinds)
    ]
    _append(app, events)
    return [str(event.id) for event in events]


def _append(app: Flask, events: Sequence[AuditEvent]) -> None:
    with app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        append_own(db.session, events)
        db.session.commit()


def pages(client: FlaskClient, who: Account, **query: Any) -> Iterator[dict[str, Any]]:
    return paging.pages(client, PATH, who.headers(), query | WINDOW)


def lines(client: FlaskClient, who: Account, **query: Any) -> list[dict[str, Any]]:
    return [item for page in pages(client, who, **query) for item in page["items"]]


def stands_for(line: dict[str, Any]) -> int:
    return line["attempts"]["count"] if line["attempts"] else 1


def listed(client: FlaskClient, who: Account, line: dict[str, Any]) -> list[str]:
    """The ids of the events that a line stands for, all of them on one page."""
    if line["attempts"] is None:
        return [line["id"]]
    answer = client.get(line["attempts"]["each"], query_string=None, headers=who.headers())
    items = answer.get_json()["items"]
    assert all(item["attempts"] is None for item in items)
    return [item["id"] for item in items]


def test_alike_attempts_of_a_stranger_make_one_line(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    served = (STAFF, LIST, EventDecision("allowed"))
    attempts = [(FIRST, LIST, DENIED)] * 100
    made = add_events(app, tenant, [served, *attempts, served])
    [page] = pages(client, admin, limit=5)
    newest, grouped, oldest = page["items"]
    assert [newest["id"], oldest["id"]] == [made[-1], made[0]]
    assert (newest["attempts"], oldest["attempts"]) == (None, None)
    assert (grouped["id"], grouped["actor"]["email"]) == (made[100], FIRST.email)
    found = grouped["attempts"]
    assert found["count"] == 100
    assert datetime.fromisoformat(found["first_at"]) == BEGIN + timedelta(milliseconds=1)
    assert datetime.fromisoformat(found["last_at"]) == BEGIN + timedelta(milliseconds=100)
    assert (page["total"], page["next_cursor"]) == (102, None)


def test_line_leads_to_each_of_its_attempts(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    made = add_events(app, tenant, [(FIRST, LIST, DENIED), (SECOND, LIST, DENIED)] * 3)
    second, first = lines(client, admin, reason="incident", sort="-occurred_at")
    assert listed(client, admin, first) == made[0::2][::-1]
    assert listed(client, admin, second) == made[1::2][::-1]


@pytest.mark.parametrize("sort", ["-occurred_at", "occurred_at"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
def test_each_event_is_on_one_page_whatever_its_size(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    limit: int,
    sort: str,
) -> None:
    asks = EventDecision("approval_required")
    kinds = [
        *[(FIRST, LIST, DENIED), (SECOND, LIST, DENIED), (FIRST, READ, DENIED)] * 4,
        (STAFF, LIST, EventDecision("allowed")),
        *[(STAFF, LIST, DENIED), (FIRST, LIST, DENIED)] * 3,
        *[(FIRST, LIST, asks)] * 5,
    ]
    made = add_events(app, tenant, kinds)
    shown = lines(client, admin, limit=limit, sort=sort)
    assert sum(map(stands_for, shown)) == len(made)
    events = [event_id for line in shown for event_id in listed(client, admin, line)]
    assert sorted(events) == sorted(made)
    heads = [line["id"] for line in shown]
    assert heads == sorted(heads, reverse=sort == "-occurred_at")
    assert len(shown) < len(made)
    of_staff = [line for line in shown if line["actor"]["email"] == STAFF.email]
    assert [line["attempts"] for line in of_staff] == [None] * 4


def test_page_stands_for_so_many_events_only(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "MOST", 30)
    monkeypatch.setattr(search, "MAX_LIMIT", 20)
    made = add_events(app, tenant, [(FIRST, LIST, DENIED)] * 90)
    found = list(pages(client, admin, limit=10))
    assert [stands_for(line) for page in found for line in page["items"]] == [40, 40, 10]
    assert [page["total"] for page in found] == [90] * 3
    assert len(made) == 90


def test_list_shows_each_attempt_if_it_is_asked_to(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    made = add_events(app, tenant, [(FIRST, LIST, DENIED)] * 5)
    shown = lines(client, admin, grouped="false", limit=2)
    assert [line["id"] for line in shown] == made[::-1]
    assert {line["attempts"] for line in shown} == {None}


def test_list_of_all_tenants_groups_attempts_only_if_it_is_asked_to(
    app: Flask, client: FlaskClient
) -> None:
    auditor = add_account(app, "auditor")
    headers = auditor.headers("global", INCIDENT)
    for tenant in (add_tenant(app), add_tenant(app)):
        add_events(app, tenant, [(SECOND, f"t{tenant.id.hex}.read", DENIED)] * 3)
        query = {"actor": SECOND.email, "tenant": tenant.slug}
        each = client.get(PATH, query_string=query, headers=headers).get_json()["items"]
        assert [line["attempts"] for line in each] == [None] * 3
        asked = {**query, "grouped": "true"}
        (line,) = client.get(PATH, query_string=asked, headers=headers).get_json()["items"]
        assert (line["attempts"]["count"], line["scope"]["tenant"]) == (3, tenant.slug)
    both = {"actor": SECOND.email, "grouped": "true"}
    items = client.get(PATH, query_string=both, headers=headers).get_json()["items"]
    counts = {item["scope"]["tenant"]: stands_for(item) for item in items}
    assert len(counts) == len(items) >= 2


def test_cursor_of_a_grouped_list_is_refused_by_the_other(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    add_events(app, tenant, [(STAFF, LIST, DENIED)] * 3)
    cursor = next(pages(client, admin, limit=1))["next_cursor"]
    query = {"limit": 1, "cursor": cursor, "grouped": "false"}
    answer = client.get(PATH, query_string=query, headers=admin.headers())
    assert (answer.status_code, list(answer.get_json()["errors"])) == (422, ["cursor"])


@pytest.mark.parametrize("value", ["yes", "1", "", "True"])
def test_grouped_is_true_or_false(client: FlaskClient, admin: Account, value: str) -> None:
    answer = client.get(PATH, query_string={"grouped": value}, headers=admin.headers())
    assert (answer.status_code, list(answer.get_json()["errors"])) == (422, ["grouped"])
