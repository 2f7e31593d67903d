"""Tests of /admin/api/audits: who may read which events, with which filters."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from uuid_utils.compat import uuid7
from werkzeug.test import TestResponse

from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.paging import pages

PATH = "/admin/api/audits"
RULES = "/admin/api/rules"
AUDITING = 'legal;ticket="AUDIT"'


@pytest.fixture
def client(app: Flask, worker: None) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def auditor(app: Flask) -> Account:
    return add_account(app, "auditor")


class Accesses:
    """Accesses of one engineer to the rules; each is committed when `make` returns."""

    def __init__(self, app: Flask, client: FlaskClient, who: Account) -> None:
        self._app, self._client, self.who = app, client, who

    def make(self, scope: str = "global", reason: str = INCIDENT, path: str = RULES) -> str:
        headers = {**self.who.headers(scope, reason), "X-Request-ID": uuid4().hex}
        answer = self._client.get(path, headers=headers)
        (event,) = committed(self._app, *receipt(answer))
        event_id: str = event["id"]
        return event_id


@pytest.fixture
def accesses(app: Flask, client: FlaskClient, engineer: Account) -> Accesses:
    return Accesses(app, client, engineer)


def audits(client: FlaskClient, who: Account, scope: str | None = "global", **query: Any) -> Any:
    """Return the body of the list that an account gets in a scope."""
    reason = AUDITING if scope else None
    answer = client.get(PATH, query_string=query, headers=who.headers(scope, reason))
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def ids(body: Any) -> list[str]:
    return [item["id"] for item in body["items"]]


def read(
    client: FlaskClient, who: Account, event_id: str, scope: str | None = None
) -> TestResponse:
    reason = AUDITING if scope else None
    return client.get(f"{PATH}/{event_id}", headers=who.headers(scope, reason))


def test_no_answer_shows_the_salt_of_an_event(
    client: FlaskClient, accesses: Accesses, auditor: Account
) -> None:
    made = accesses.make()
    for path in (PATH, f"{PATH}/{made}"):
        answer = client.get(path, headers=auditor.headers("global", AUDITING))
        assert made in answer.text
        assert "salt" not in answer.text


class TestAuthorization:
    def test_auditor_sees_every_access(
        self, client: FlaskClient, accesses: Accesses, auditor: Account, tenant: MadeTenant
    ) -> None:
        made = [accesses.make(), accesses.make(f"tenant:{tenant.slug}"), accesses.make(path=PATH)]
        assert ids(audits(client, auditor, actor=accesses.who.email)) == made[::-1]

    def test_access_of_an_auditor_is_recorded_too(
        self, app: Flask, client: FlaskClient, accesses: Accesses, auditor: Account
    ) -> None:
        seen = accesses.make()
        query = {"actor": accesses.who.email}
        answer = client.get(PATH, query_string=query, headers=auditor.headers("global", AUDITING))
        one = read(client, auditor, seen, "global")
        listed, single = committed(app, *receipt(answer), *receipt(one))
        assert (listed["surface"], listed["rows"]) == ("admin.audits.list", 1)
        assert (single["surface"], single["rows"]) == ("admin.audits.read", 1)
        assert listed["actor"]["email"] == single["actor"]["email"] == auditor.email
        assert ids(audits(client, auditor, actor=auditor.email, surface="admin.audits.read")) == [
            single["id"]
        ]

    def test_auditor_must_give_a_reason(self, client: FlaskClient, auditor: Account) -> None:
        answer = client.get(PATH, headers=auditor.headers("global"))
        assert (answer.status_code, answer.get_json(force=True)["code"]) == (400, "reason_required")

    def test_tenant_admin_sees_accesses_to_that_tenant_and_to_all_tenants(
        self,
        app: Flask,
        client: FlaskClient,
        accesses: Accesses,
        tenant: MadeTenant,
        admin: Account,
    ) -> None:
        own = accesses.make(f"tenant:{tenant.slug}")
        accesses.make(f"tenant:{add_tenant(app).slug}")
        to_all = accesses.make()
        body = audits(client, admin, None, actor=accesses.who.email)
        assert (ids(body), body["total"]) == ([to_all, own], 2)

    @pytest.mark.parametrize("role", ["support", "engineer"])
    def test_other_platform_roles_cannot_read_events(
        self, app: Flask, client: FlaskClient, tenant: MadeTenant, role: Any
    ) -> None:
        who = add_account(app, role)
        for scope in ("global", f"tenant:{tenant.slug}"):
            answer = client.get(PATH, headers=who.headers(scope, AUDITING))
            assert answer.status_code == 403
            assert answer.get_json(force=True)["code"] == "elevation_denied"
            (event,) = committed(app, *receipt(answer))
            assert (event["outcome"], event["surface"]) == ("denied", "admin.audits.list")

    def test_tenant_member_cannot_read_events(
        self, app: Flask, client: FlaskClient, tenant: MadeTenant
    ) -> None:
        member = add_account(app, member_of={tenant.slug: "member"})
        answer = client.get(PATH, headers=member.headers())
        assert (answer.status_code, answer.get_json(force=True)["code"]) == (403, "forbidden")

    def test_tenant_admin_cannot_read_events_of_another_tenant(
        self, app: Flask, client: FlaskClient, admin: Account
    ) -> None:
        other = add_tenant(app)
        answer = client.get(PATH, headers=admin.headers(f"tenant:{other.slug}", AUDITING))
        assert answer.status_code == 403

    def test_request_without_a_token_cannot_read_events(self, client: FlaskClient) -> None:
        assert client.get(PATH).status_code == 401
        assert client.get(f"{PATH}/{uuid7()}").status_code == 401


class TestSingleEvent:
    def test_single_event_equals_its_item_in_the_list(
        self, app: Flask, client: FlaskClient, accesses: Accesses, auditor: Account
    ) -> None:
        event_id = accesses.make(reason='fraud;ticket="F-1";note="odd logins"')
        (item,) = audits(client, auditor, actor=accesses.who.email)["items"]
        assert item.pop("attempts") is None
        assert read(client, auditor, event_id, "global").get_json() == item
        (event,) = committed(app, UUID(event_id))
        committed_at = datetime.fromisoformat(item.pop("committed_at"))
        assert item == {name: value for name, value in event.items() if name != "salt"}
        assert datetime.now(UTC) >= committed_at >= datetime.fromisoformat(item["occurred_at"])
        assert item["reason"] == {"code": "fraud", "ticket": "F-1", "note": "odd logins"}
        assert item["actor"] == {
            "id": str(accesses.who.id),
            "email": accesses.who.email,
            "mfa": False,
            "roles": ["engineer"],
            "token_id": str(accesses.who.token_id),
        }
        assert item["request"]["path"] == RULES

    def test_tenant_admin_reads_an_access_to_the_own_tenant(
        self, client: FlaskClient, accesses: Accesses, tenant: MadeTenant, admin: Account
    ) -> None:
        event_id = accesses.make(f"tenant:{tenant.slug}")
        answer = read(client, admin, event_id)
        assert answer.status_code == 200
        assert answer.get_json()["id"] == event_id
        assert receipt(answer) == []

    def test_event_of_another_tenant_is_answered_like_a_missing_one(
        self, app: Flask, client: FlaskClient, accesses: Accesses, admin: Account
    ) -> None:
        unreadable = [accesses.make(f"tenant:{add_tenant(app).slug}"), str(uuid7())]
        answers = [read(client, admin, event_id) for event_id in unreadable]
        assert [answer.status_code for answer in answers] == [404] * 2
        problems = [answer.get_json(force=True) for answer in answers]
        comparable = [
            {k: v for k, v in p.items() if k not in ("request_id", "instance")} for p in problems
        ]
        assert comparable[0] == comparable[1]
        assert comparable[0]["code"] == "not_found"

    def test_invalid_event_id_is_not_found(self, client: FlaskClient, auditor: Account) -> None:
        assert read(client, auditor, "no-id", "global").status_code == 404


class TestFilters:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"surface": "admin.rules.list"}, {"list"}),
            ({"surface": "admin.rules.*"}, {"list", "read"}),
            ({"surface": "admin.*"}, {"list", "read", "denied"}),
            ({"surface": "*"}, {"list", "read", "denied"}),
            ({"surface": "admin.rule.*"}, set()),
            ({"surface": "admin_rules.*"}, set()),
            ({"surface": "admin.rules"}, set()),
            ({"reason": "fraud"}, {"read"}),
            ({"ticket": "T-1"}, {"list", "denied"}),
            ({"ticket": "T-_"}, set()),
            ({"effect": "denied"}, {"denied"}),
            ({"effect": "allowed"}, {"list", "read"}),
            ({"outcome": "failed"}, {"read"}),
            ({"outcome": "served"}, {"list"}),
            ({"kind": "access"}, {"list", "read", "denied"}),
            ({"kind": "change"}, set()),
            ({"ticket": "T-1", "effect": "allowed"}, {"list"}),
            ({"tenant": "nobody-has-this"}, set()),
        ],
    )
    def test_filter_shows_matching_events_only(
        self,
        client: FlaskClient,
        accesses: Accesses,
        auditor: Account,
        query: dict[str, str],
        expected: set[str],
    ) -> None:
        made = {
            accesses.make(reason='incident;ticket="T-1"'): "list",
            accesses.make(reason='fraud;ticket="T-2"', path=f"{RULES}/{uuid7()}"): "read",
            accesses.make(reason='incident;ticket="T-1"', path=PATH): "denied",
        }
        body = audits(client, auditor, actor=accesses.who.email, **query)
        assert {made[event_id] for event_id in ids(body)} == expected
        assert body["total"] == len(expected)

    def test_tenant_filter_finds_accesses_to_existing_and_missing_tenants(
        self, client: FlaskClient, accesses: Accesses, auditor: Account, tenant: MadeTenant
    ) -> None:
        """An access to a tenant that does not exist is an event too."""
        missing = f"no-{uuid4().hex}"
        for slug in (tenant.slug, missing):
            made = accesses.make(f"tenant:{slug}")
            assert ids(audits(client, auditor, tenant=slug, kind="access")) == [made]

    def test_request_filter_finds_the_events_of_one_request(
        self, client: FlaskClient, accesses: Accesses, auditor: Account
    ) -> None:
        made = accesses.make()
        accesses.make()
        request_id = read(client, auditor, made, "global").get_json()["request"]["id"]
        assert ids(audits(client, auditor, request_id=request_id)) == [made]

    def test_moment_filters_include_from_and_exclude_to(
        self, client: FlaskClient, accesses: Accesses, auditor: Account
    ) -> None:
        """The time zone of the two moments makes no difference."""
        first, second, third = accesses.make(), accesses.make(), accesses.make()
        body = audits(client, auditor, actor=accesses.who.email, sort="occurred_at")
        at = [datetime.fromisoformat(item["occurred_at"]) for item in body["items"]]
        filters = {"actor": accesses.who.email, "sort": "occurred_at"}
        since = audits(client, auditor, **filters, **{"from": at[1].isoformat()})
        assert ids(since) == [second, third]
        until = audits(client, auditor, **filters, to=at[1].isoformat())
        assert ids(until) == [first]
        zone = timezone(timedelta(hours=5, minutes=30))
        east = [moment.astimezone(zone).isoformat() for moment in at]
        both = audits(client, auditor, **filters, **{"from": east[1], "to": east[2]})
        assert ids(both) == [second]
        later = (at[2] + timedelta(microseconds=1)).isoformat()
        assert ids(audits(client, auditor, **filters, **{"from": later})) == []

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ({"limit": "0"}, "limit"),
            ({"limit": "201"}, "limit"),
            ({"sort": "actor"}, "sort"),
            ({"effect": "served"}, "effect"),
            ({"outcome": "allowed"}, "outcome"),
            ({"kind": "read"}, "kind"),
            ({"surface": "admin*"}, "surface"),
            ({"surface": "*.rules"}, "surface"),
            ({"actor": "a\x00b"}, "actor"),
            ({"from": "2026-01-02T03:04:05"}, "from"),
            ({"to": "yesterday"}, "to"),
            ({"cursor": "made-up"}, "cursor"),
            ({"unknown": "1"}, "unknown"),
        ],
    )
    def test_invalid_filter_is_refused_and_its_field_named(
        self, client: FlaskClient, admin: Account, query: dict[str, str], field: str
    ) -> None:
        answer = client.get(PATH, query_string=query, headers=admin.headers())
        assert answer.status_code == 422
        assert list(answer.get_json(force=True)["errors"]) == [field]


class TestPaging:
    @pytest.mark.parametrize("sort", ["-occurred_at", "occurred_at"])
    @pytest.mark.parametrize("limit", [1, 2, 5])
    def test_pages_show_every_event_once_and_in_order(
        self, client: FlaskClient, accesses: Accesses, auditor: Account, sort: str, limit: int
    ) -> None:
        made = [accesses.make() for _ in range(5)]
        query = {"actor": accesses.who.email, "sort": sort, "limit": limit}
        found = list(pages(client, PATH, auditor.headers("global", AUDITING), query))
        assert all(len(page["items"]) <= limit for page in found)
        assert {page["total"] for page in found} == {5}
        shown = [event_id for page in found for event_id in ids(page)]
        assert shown == (made[::-1] if sort.startswith("-") else made)

    def test_new_event_does_not_shift_the_next_page(
        self, client: FlaskClient, accesses: Accesses, auditor: Account
    ) -> None:
        made = [accesses.make() for _ in range(3)]
        query: dict[str, Any] = {"actor": accesses.who.email, "limit": 2}
        first = audits(client, auditor, **query)
        accesses.make()
        rest = audits(client, auditor, cursor=first["next_cursor"], **query)
        assert ids(first) + ids(rest) == made[::-1]

    def test_cursor_of_another_list_is_refused(
        self,
        app: Flask,
        client: FlaskClient,
        accesses: Accesses,
        auditor: Account,
        tenant: MadeTenant,
    ) -> None:
        scope = f"tenant:{tenant.slug}"
        for _ in range(3):
            accesses.make(scope)
        query: dict[str, Any] = {"tenant": tenant.slug, "limit": 1}
        cursor = audits(client, auditor, **query)["next_cursor"]
        assert audits(client, auditor, **{**query, "limit": 2}, cursor=cursor)["items"]
        for changed in (
            {**query, "sort": "occurred_at"},
            {**query, "effect": "allowed"},
            {"limit": 1},
        ):
            answer = client.get(
                PATH,
                query_string={**changed, "cursor": cursor},
                headers=auditor.headers("global", AUDITING),
            )
            assert answer.status_code == 422
        admin = add_account(app, member_of={tenant.slug: "admin"})
        answer = client.get(PATH, query_string={**query, "cursor": cursor}, headers=admin.headers())
        assert answer.status_code == 422


class TestNotModified:
    def test_not_modified_answer_is_recorded(
        self, app: Flask, client: FlaskClient, accesses: Accesses, auditor: Account
    ) -> None:
        event_id = accesses.make()
        for path in (f"{PATH}?actor={accesses.who.email}", f"{PATH}/{event_id}"):
            headers = auditor.headers("global", AUDITING)
            first = client.get(path, headers=headers)
            again = client.get(path, headers={**headers, "If-None-Match": first.headers["ETag"]})
            assert (again.status_code, again.data) == (304, b"")
            one, other = committed(app, *receipt(first), *receipt(again))
            assert one["id"] != other["id"]
            assert (other["http_status"], other["outcome"], other["rows"]) == (304, "served", 0)

    def test_new_event_changes_the_entity_tag(
        self, client: FlaskClient, accesses: Accesses, tenant: MadeTenant, admin: Account
    ) -> None:
        path = f"{PATH}?tenant={tenant.slug}"  # without the accesses of other tests
        accesses.make(f"tenant:{tenant.slug}")
        first = client.get(path, headers=admin.headers())
        headers = {**admin.headers(), "If-None-Match": first.headers["ETag"]}
        assert client.get(path, headers=headers).status_code == 304
        accesses.make(f"tenant:{tenant.slug}")
        assert client.get(path, headers=headers).status_code == 200

    def test_etag_does_not_help_a_principal_without_access(
        self, app: Flask, client: FlaskClient, accesses: Accesses, auditor: Account
    ) -> None:
        path = f"{PATH}/{accesses.make()}"
        etag = client.get(path, headers=auditor.headers("global", AUDITING)).headers["ETag"]
        support = add_account(app, "support")
        headers = {**support.headers("global", AUDITING), "If-None-Match": etag}
        assert client.get(path, headers=headers).status_code == 403
