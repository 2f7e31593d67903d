"""Tests of /admin/api/audits/export: what it shows to whom, and that it is recorded truthfully."""

import json
from collections.abc import Iterator
from threading import BoundedSemaphore
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.audit.events import excluding, make_event
from tests.audit.ledgers import append_events
from tests.audit.receipts import committed, receipt
from tests.factories import Account, MadeTenant, add_account
from webapp.audit.event import AuditEvent, EventScope, Reason
from webapp.ledger import views
from webapp.ledger.export import reading, service

PATH = "/admin/api/audits/export"
AUDITING = 'legal;ticket="AUDIT"'


@pytest.fixture
def client(app: Flask, worker: None) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def admin(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "admin"})


@pytest.fixture
def auditor(app: Flask) -> Account:
    return add_account(app, "auditor")


def of(tenant: MadeTenant, **changes: Any) -> AuditEvent:
    scope = EventScope(kind="tenant", tenant=tenant.slug, tenant_id=tenant.id)
    return make_event(scope=scope, **changes)


def export(client: FlaskClient, who: Account, scope: str | None = None, **query: Any) -> Any:
    """The lines of an export, but for those of `log`: nothing is sealed here."""
    answer = get(client, who, scope, **query)
    lines = [json.loads(line) for line in answer.data.splitlines()]
    answer.close()
    assert answer.status_code == 200, lines
    return lines


def get(client: FlaskClient, who: Account, scope: str | None = None, **query: Any) -> TestResponse:
    reason = AUDITING if scope else None
    return client.get(PATH, query_string=query, headers=who.headers(scope, reason))


def shown(lines: list[Any]) -> list[dict[str, Any]]:
    """The events of an export, as far as it shows them."""
    return [
        {name: unit["value"] for name, unit in line["units"].items() if "value" in unit}
        for line in lines
        if "units" in line
    ]


def ids(lines: list[Any]) -> set[str]:
    return {units["event"]["id"] for units in shown(lines)}


def take(parts: Iterator[bytes], events: int) -> None:
    """Take as much of an export as shows so many events, where each part is a line."""
    while events:
        events -= b'"units":' in next(parts)


def test_tenants_export_has_what_its_list_has(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    reason = Reason(code="legal", note=None, ticket=uuid4().hex)
    left_out = excluding(frozenset({tenant.id}), reason=reason)
    seen = make_event(reason=reason)
    append_events(app, *[of(tenant, reason=reason) for _ in range(5)], left_out, seen)
    lines = export(client, admin, ticket=reason.ticket)
    path = f"/admin/api/audits?grouped=false&ticket={reason.ticket}"
    listed = client.get(path, headers=admin.headers()).get_json()
    assert ids(lines) == {item["id"] for item in listed["items"]}
    assert str(seen.id) in ids(lines)
    assert str(left_out.id) not in ids(lines)
    assert lines[-1]["trailer"]["counts"]["accesses"] == listed["total"] == 6


def test_filters_are_those_of_the_list(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    ticket = uuid4().hex
    wanted = of(
        tenant, surface="kept.grants.all", reason=Reason(code="legal", note=None, ticket=ticket)
    )
    append_events(app, wanted, of(tenant), of(tenant, surface="admin.rules.list"))
    for query in ({"ticket": ticket}, {"surface": "kept.grants.*"}):
        lines = export(client, admin, **query)
        assert ids(lines) == {str(wanted.id)}
        assert lines[0]["export"] | {"exported_at": None} == {
            "anchor": None,
            "complete": False,
            "exported_at": None,
            "filter": query,
            "format": 1,
            "label": None,
            "scope": {"kind": "tenant", "tenant": tenant.slug},
        }


def test_export_in_ones_own_tenant_is_recorded_with_its_rows(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    append_events(app, *[of(tenant, surface="a.b") for _ in range(3)])
    answer = get(client, admin, surface="a.b")
    assert answer.data
    answer.close()
    (event,) = committed(app, *receipt(answer))
    assert (event["kind"], event["surface"]) == ("access", "admin.audits.export")
    assert (event["rows"], event["outcome"], event["http_status"]) == (3, "served", 200)
    assert event["terms"] == {"surface": "a.b"}
    assert event["reason"] is None


def test_client_that_leaves_is_recorded_with_what_it_got(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    append_events(app, *[of(tenant, surface="a.b") for _ in range(30)])
    with mock.patch.object(service, "PART", 1):
        answer = get(client, admin, surface="a.b")
        take(answer.iter_encoded(), 10)
        answer.close()
    (event,) = committed(app, *receipt(answer))
    assert (event["rows"], event["outcome"]) == (10, "interrupted")


def test_export_that_fails_on_its_way_is_cut_and_recorded(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    append_events(app, *[of(tenant, surface="a.b") for _ in range(3)])
    with mock.patch.object(service, "PART", 1):
        answer = get(client, admin, surface="a.b")
        parts = answer.iter_encoded()
        take(parts, 2)
        with (
            mock.patch.object(service, "disclose", side_effect=RuntimeError("out of order")),
            pytest.raises(RuntimeError),
        ):
            take(parts, 1)
        answer.close()
    (event,) = committed(app, *receipt(answer))
    assert (event["rows"], event["outcome"]) == (2, "interrupted")


def test_head_shows_nothing(client: FlaskClient, app: Flask, admin: Account) -> None:
    answer = client.head(PATH, headers=admin.headers())
    assert (answer.status_code, answer.data) == (200, b"")
    (event,) = committed(app, *receipt(answer))
    assert (event["rows"], event["outcome"]) == (0, "served")


def test_tenant_is_shown_no_salt_of_a_whole_event_and_no_signature(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    made = [of(tenant), make_event(terms={"q": "globex"}), make_event()]
    append_events(app, *made)
    lines = export(client, admin)
    assert not any("salt" in line or "origin_signature" in line for line in lines)
    assert all("digest" in line["units"]["excluded"] for line in lines if "units" in line)
    assert not any(str(event.salt) in json.dumps(lines) for event in made)
    units = {each["event"]["id"]: each for each in shown(lines)}
    assert "request" in units[str(made[0].id)]
    assert "request" not in units[str(made[1].id)]  # what was looked for at all tenants


def test_stranger_s_words_are_withheld_from_a_tenant(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    stranger = of(tenant, outcome="denied", http_status=403, rows=None)
    append_events(app, stranger)
    assert set(shown(export(client, admin, outcome="denied"))[0]) >= {"event", "actor", "decision"}


def test_auditor_gets_all_of_every_event(
    app: Flask, client: FlaskClient, tenant: MadeTenant, auditor: Account
) -> None:
    made = of(tenant, surface=f"a.{tenant.slug.replace('-', '')}")
    append_events(app, made)
    lines = export(client, auditor, "global", surface=made.surface)
    (units,) = shown(lines)
    assert set(units) == {"event", "actor", "reason", "request", "decision", "excluded"}
    assert lines[0]["export"]["scope"] == {"kind": "global", "tenant": None}


@pytest.mark.parametrize(
    "query", [{"format": "csv"}, {"anchor": "0"}, {"anchor": "x"}, {"limit": "1"}, {"sort": "x"}]
)
def test_what_an_export_cannot_be_is_refused(
    client: FlaskClient, admin: Account, query: dict[str, str]
) -> None:
    assert get(client, admin, **query).status_code == 422


def test_member_and_outsider_get_no_export(
    app: Flask, client: FlaskClient, tenant: MadeTenant, auditor: Account
) -> None:
    member = add_account(app, member_of={tenant.slug: "member"})
    assert get(client, member).status_code == 403
    assert get(client, auditor).status_code == 422  # no tenant of its own
    support = add_account(app, "support")
    assert get(client, support, f"tenant:{tenant.slug}").status_code == 403


def test_process_sends_a_few_exports_at_a_time(client: FlaskClient, admin: Account) -> None:
    with mock.patch.object(views, "_exports", BoundedSemaphore(1)) as room:
        assert room.acquire()
        refused = get(client, admin)
        assert (refused.status_code, refused.get_json()["code"]) == (429, "rate_limited")
        room.release()
        for _ in range(2):  # an answer that has ended makes room for the next
            assert client.head(PATH, headers=admin.headers()).status_code == 200
            export(client, admin)


@pytest.fixture
def small_pages() -> Iterator[None]:
    with mock.patch.object(reading, "SPAN", 7), mock.patch.object(reading, "PAGE", 3):
        yield


@pytest.mark.usefixtures("small_pages")
def test_each_event_is_there_once_however_many_pages_are_read(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    made = [of(tenant, surface="a.b") for _ in range(29)]
    append_events(app, *made)
    lines = export(client, admin, surface="a.b")
    listed = [units["event"]["id"] for units in shown(lines)]
    assert sorted(listed) == sorted(str(event.id) for event in made)
