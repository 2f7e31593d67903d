"""POST, PATCH and DELETE of rules: who may, what changes, and conditions on the version."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from tests.factories import INCIDENT, Account, MadeTenant, add_account
from tests.rules.calls import PATH, add_rule, delete, draft, etag, names, of, patch, problem
from webapp.db.scopes import TenantScope
from webapp.extensions import db
from webapp.rules.models import RuleRow

FULL: dict[str, Any] = {
    "name": "Office hours only",
    "description": "Accesses need an approval outside of them.",
    "effect": "require_approval",
    "subjects": {"roles": ["support", "engineer"], "users": ["kim@example.org"]},
    "surfaces": ["admin.rules.*", "log.read"],
    "reasons": ["incident", "support_case"],
    "ticket": "INC-*",
    "windows": [
        {"days": ["mon", "fri"], "from": "09:00", "to": "17:30", "tz": "Europe/Berlin"},
        {"days": ["sat"], "from": "22:00", "to": "06:00", "tz": "UTC"},
    ],
    "networks": ["10.0.0.0/8", "2001:db8::/32"],
    "mfa": True,
    "max_minutes": 90,
    "min_approvals": 2,
    "approver_roles": ["admin", "owner"],
    "enabled": False,
    "starts_at": "2026-03-29T02:30:00+02:00",
    "ends_at": None,
}


def test_created_rule_reads_back_as_written(
    client: FlaskClient, tenant: MadeTenant, admin: Account, member: Account
) -> None:
    created = client.post(PATH, headers=admin.headers(), json=FULL)
    rule = created.get_json()
    assert created.status_code == 201
    assert created.headers["Location"] == of(rule)
    assert created.headers["ETag"] == etag(rule)
    assert rule == FULL | {
        "id": rule["id"],
        "tenant": tenant.slug,
        "starts_at": "2026-03-29T00:30:00+00:00",
        "version": 1,
        "created_at": rule["created_at"],
        "created_by": admin.email,
        "updated_at": rule["created_at"],
        "updated_by": admin.email,
    }

    read = client.get(created.headers["Location"], headers=member.headers())
    assert (read.get_json(), read.headers["ETag"]) == (rule, created.headers["ETag"])
    assert client.get(PATH, headers=member.headers()).get_json()["items"] == [rule]
    known = member.headers() | {"If-None-Match": etag(rule)}
    assert client.get(of(rule), headers=known).status_code == 304


def test_rule_change_by_anybody_but_the_tenants_admin_is_refused(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account, member: Account
) -> None:
    rule = add_rule(client, admin.headers())
    refused = client.post(PATH, headers=member.headers(), json=draft("mine"))
    assert problem(refused) == (403, "forbidden", [])
    assert UUID(refused.headers["Sightline-Audit"])
    assert patch(client, member, rule, name="mine").status_code == 403
    assert delete(client, member, rule).status_code == 403
    for role in ("support", "engineer", "auditor"):
        headers = add_account(app, role).headers(f"tenant:{tenant.slug}", INCIDENT)
        refused = client.post(PATH, headers=headers, json=draft("mine"))
        assert problem(refused) == (403, "elevation_denied", [])
    assert names(client, admin.headers()) == ["nights"]


def test_rule_change_in_ones_own_tenant_is_recorded(client: FlaskClient, admin: Account) -> None:
    created = client.post(PATH, headers=admin.headers(), json=draft())
    rule = created.get_json()
    changed = patch(client, admin, rule, enabled=False)
    deleted = delete(client, admin, changed.get_json())
    receipts = {response.headers["Sightline-Audit"] for response in (created, changed, deleted)}
    assert len({UUID(receipt) for receipt in receipts}) == 3
    assert "Sightline-Audit" not in client.get(PATH, headers=admin.headers()).headers


def test_rule_name_that_the_tenant_has_already_is_refused(
    client: FlaskClient, admin: Account, outsider: Account
) -> None:
    rule = add_rule(client, admin.headers(), "taken")
    other = add_rule(client, admin.headers(), "free")
    add_rule(client, outsider.headers(), "taken")

    again = client.post(PATH, headers=admin.headers(), json=draft("taken"))
    assert problem(again) == (409, "conflict", ["name"])
    assert problem(patch(client, admin, other, name="taken")) == (409, "conflict", ["name"])
    assert names(client, admin.headers()) == ["free", "taken"]

    assert delete(client, admin, rule).status_code == 204
    assert patch(client, admin, other, name="taken").status_code == 200


def test_owner_adds_and_changes_a_platform_rule(client: FlaskClient, owner: Account) -> None:
    everywhere = owner.headers("global", INCIDENT)
    name = f"platform {uuid4()}"
    rule = add_rule(client, everywhere, name)
    assert rule["tenant"] is None
    again = client.post(PATH, headers=everywhere, json=draft(name, tenant=None))
    assert problem(again) == (409, "conflict", ["name"])
    changed = client.patch(
        of(rule), headers=everywhere | {"If-Match": etag(rule)}, json={"enabled": False}
    )
    assert (changed.status_code, changed.get_json()["enabled"]) == (200, False)
    assert names(client, everywhere, q=name, enabled="false") == [name]


def test_rule_added_in_the_global_scope_belongs_to_the_tenant_that_it_names(
    client: FlaskClient, tenant: MadeTenant, admin: Account, owner: Account
) -> None:
    everywhere = owner.headers("global", INCIDENT)
    rule = add_rule(client, everywhere, "for them", tenant=tenant.slug)
    assert rule["tenant"] == tenant.slug
    assert names(client, admin.headers()) == ["for them"]
    unknown = client.post(PATH, headers=everywhere, json=draft(tenant="no-such-tenant"))
    assert problem(unknown) == (422, "invalid", ["tenant"])


@pytest.mark.parametrize("tenant_named", [None, "acme"])
def test_rule_added_in_a_tenants_scope_must_belong_to_that_tenant(
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    owner: Account,
    tenant_named: str | None,
) -> None:
    scope = owner.headers(f"tenant:{tenant.slug}", INCIDENT)
    refused = client.post(PATH, headers=scope, json=draft(tenant=tenant_named))
    assert problem(refused) == (422, "invalid", ["tenant"])
    assert add_rule(client, scope, "a", tenant=tenant.slug)["tenant"] == tenant.slug
    assert names(client, admin.headers()) == ["a"]


def test_patch_keeps_the_fields_that_it_does_not_name(client: FlaskClient, admin: Account) -> None:
    rule = add_rule(client, admin.headers(), **FULL)
    response = patch(client, admin, rule, subjects={"users": ["lee@example.org"]}, ticket=None)
    changed = response.get_json()
    assert response.status_code == 200
    assert response.headers["ETag"] == etag(changed)
    assert changed == rule | {
        "subjects": {"roles": [], "users": ["lee@example.org"]},
        "ticket": None,
        "version": 2,
        "updated_at": changed["updated_at"],
    }
    assert changed["updated_at"] > rule["updated_at"]


@pytest.mark.parametrize(
    "changes", [{}, {"mfa": False}, {"name": "nights", "surfaces": ["a", "b"]}]
)
def test_patch_that_changes_nothing_stores_no_version(
    client: FlaskClient, admin: Account, changes: dict[str, object]
) -> None:
    rule = add_rule(client, admin.headers(), surfaces=["a", "b"])
    response = patch(client, admin, rule, **changes)
    assert (response.status_code, response.get_json()) == (200, rule)


def test_rule_that_ends_before_it_starts_is_refused(client: FlaskClient, admin: Account) -> None:
    times = {"starts_at": "2026-01-02T00:00:00Z", "ends_at": "2026-01-02T01:00:00+01:00"}
    refused = client.post(PATH, headers=admin.headers(), json=draft(**times))
    assert problem(refused) == (422, "invalid", ["ends_at"])
    rule = add_rule(client, admin.headers(), starts_at="2026-01-02T00:00:00Z")
    refused = patch(client, admin, rule, ends_at="2026-01-01T00:00:00Z")
    assert problem(refused) == (422, "invalid", ["ends_at"])
    assert patch(client, admin, rule, ends_at="2026-01-03T00:00:00Z").status_code == 200


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_rule_change_without_the_current_version_is_refused(
    client: FlaskClient, admin: Account, method: str
) -> None:
    rule = add_rule(client, admin.headers())
    seen = etag(rule)
    assert patch(client, admin, rule, name="newer").status_code == 200

    def answer(**condition: str) -> tuple[int, str, list[str]]:
        headers = admin.headers() | condition
        return problem(client.open(of(rule), method=method, headers=headers, json={"name": "x"}))

    assert answer() == (428, "precondition_required", [])
    current = seen.replace(".1", ".2")
    other_row = f'"{uuid4().hex}.2"'
    for stale in (seen, f"W/{current}", other_row):
        assert answer(**{"If-Match": stale}) == (412, "stale", [])
    for unreadable in ("2", '"'):
        assert answer(**{"If-Match": unreadable}) == (422, "invalid", ["If-Match"])
    assert names(client, admin.headers()) == ["newer"]
    headers = admin.headers() | {"If-Match": f"{seen}, {current}"}
    response = client.open(of(rule), method=method, headers=headers, json={"name": "newest"})
    assert response.status_code == {"PATCH": 200, "DELETE": 204}[method]


def test_one_of_several_concurrent_changes_to_a_version_succeeds(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    rule = add_rule(client, admin.headers())

    def change(number: int) -> int:
        return patch(app.test_client(), admin, rule, description=str(number)).status_code

    scope = TenantScope(tenant.id)
    with app.app_context(), db.scoped(scope), ThreadPoolExecutor(4) as threads:
        db.session.get(RuleRow, UUID(rule["id"]), with_for_update=True)
        answers = [threads.submit(change, number) for number in range(4)]
        while db.session.scalar(text("select count(*) from pg_locks where not granted")) != 4:
            assert not any(answer.done() for answer in answers)
        db.session.rollback()
        assert sorted(answer.result() for answer in answers) == [200, 412, 412, 412]
    assert client.get(of(rule), headers=admin.headers()).get_json()["version"] == 2


def test_one_of_several_concurrent_rules_with_the_same_name_is_created(
    app: Flask, admin: Account
) -> None:
    together = Barrier(6)

    def create(_: int) -> int:
        together.wait()
        return app.test_client().post(PATH, headers=admin.headers(), json=draft()).status_code

    with ThreadPoolExecutor(6) as threads:
        assert sorted(threads.map(create, range(6))) == [201, 409, 409, 409, 409, 409]


def test_deleted_rule_is_not_found(client: FlaskClient, admin: Account) -> None:
    rule = add_rule(client, admin.headers())
    deleted = delete(client, admin, rule)
    assert (deleted.status_code, deleted.data) == (204, b"")
    assert names(client, admin.headers()) == []
    gone = {**rule, "version": 2}
    for response in (
        client.get(of(rule), headers=admin.headers()),
        patch(client, admin, gone, name="back"),
        delete(client, admin, gone),
    ):
        assert problem(response) == (404, "not_found", [])


def test_foreign_tenants_rule_answers_like_one_that_does_not_exist(
    client: FlaskClient, admin: Account, outsider: Account
) -> None:
    theirs = add_rule(client, outsider.headers())
    never = {**theirs, "id": str(uuid4())}

    def answers(rule: dict[str, object]) -> list[dict[str, object]]:
        responses = (
            client.get(of(rule), headers=admin.headers()),
            client.get(f"{of(rule)}/history", headers=admin.headers()),
            patch(client, admin, rule, name="mine"),
            delete(client, admin, rule),
        )
        bodies = [response.get_json(force=True) for response in responses]
        return [{k: v for k, v in b.items() if k not in ("request_id", "instance")} for b in bodies]

    assert answers(theirs) == answers(never)
    assert {answer["status"] for answer in answers(theirs)} == {404}
    assert client.get(of(theirs), headers=outsider.headers()).get_json() == theirs


def test_list_after_a_change_never_shows_the_old_rules(
    client: FlaskClient, tenant: MadeTenant, admin: Account, owner: Account
) -> None:
    everywhere = owner.headers("global", INCIDENT)

    def seen() -> list[list[str]]:
        own = names(client, admin.headers())
        return [own, names(client, everywhere, tenant=tenant.slug)]

    assert seen() == [[], []]
    rule = add_rule(client, admin.headers(), "a")
    assert seen() == [["a"], ["a"]]
    rule = patch(client, admin, rule, name="b").get_json()
    assert seen() == [["b"], ["b"]]
    assert delete(client, admin, rule).status_code == 204
    assert seen() == [[], []]
