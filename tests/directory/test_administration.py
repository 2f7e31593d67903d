"""Tenants, members and tokens over HTTP: who may change what, and what of it is on record."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, select, text
from werkzeug.test import TestResponse

from tests.audit.receipts import second_connection, wait_for
from tests.directory.calls import (
    MEMBERS,
    TENANTS,
    TOKENS,
    add_member,
    bearer,
    change,
    elevated,
    mint,
    problem,
)
from tests.factories import Account, MadeTenant, add_account, add_tenant
from tests.grants.test_waiting import WAITING
from tests.isolation.logins import connected
from webapp.audit.models import AuditEventRow
from webapp.db.roles import DIRECTORY_ROLE
from webapp.directory import members, minting
from webapp.observability.request_log import REQUEST_ID_HEADER


def new_email() -> str:
    return f"{uuid4().hex}@example.org"


def changes_of(app: Flask, answer: TestResponse) -> list[Mapping[str, Any]]:
    """The events that triggers have written in a request, in order."""
    of_request = (
        AuditEventRow.event["request"]["id"].astext == answer.headers[REQUEST_ID_HEADER],
        AuditEventRow.event["request"]["method"].astext == "HTTP",
    )
    with second_connection(app) as session:
        events = select(AuditEventRow).where(*of_request).order_by(AuditEventRow.origin_seq)
        return [row.event for row in session.scalars(events)]


def test_admin_adds_lists_changes_and_removes_a_member(
    client: FlaskClient, admin: Account, tenant: MadeTenant
) -> None:
    email = new_email()
    added = add_member(client, admin.headers(), email.upper())
    assert added.status_code == 201, added.text
    member = added.get_json()
    assert member | {"id": ""} == {
        "id": "",
        "email": email,
        "tenant": tenant.slug,
        "role": "member",
    }
    path = added.headers["Location"]
    assert client.get(path, headers=admin.headers()).get_json() == member
    listed = client.get(MEMBERS, headers=admin.headers()).get_json()
    assert [(each["email"], each["role"]) for each in listed["items"]] == [
        (admin.email, "admin"),
        (email, "member"),
    ]
    changed = change(client, admin.headers(), path, "PATCH", role="admin")
    assert (changed.status_code, changed.get_json()["role"]) == (200, "admin")
    assert change(client, admin.headers(), path, "DELETE").status_code == 204
    assert client.get(path, headers=admin.headers()).status_code == 404
    assert client.get(MEMBERS, headers=admin.headers()).get_json()["total"] == 1


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({"role": "admin"}, ["admin"]),
        ({"role": "member"}, ["member"]),
        ({"email": "ADMIN"}, ["admin"]),
        ({"email": "nobody@example.org"}, []),
        ({"sort": "-role"}, ["member", "admin"]),
    ],
)
def test_list_of_members_is_filtered_and_sorted(
    app: Flask,
    client: FlaskClient,
    admin: Account,
    tenant: MadeTenant,
    query: dict[str, str],
    shown: list[str],
) -> None:
    add_account(app, member_of={tenant.slug: "member"})
    asked = {name: value.replace("ADMIN", admin.email) for name, value in query.items()}
    page = client.get(MEMBERS, headers=admin.headers(), query_string=asked).get_json()
    assert [each["role"] for each in page["items"]] == shown


def test_list_of_members_goes_on_from_its_cursor(
    app: Flask, client: FlaskClient, admin: Account, tenant: MadeTenant
) -> None:
    others = {add_account(app, member_of={tenant.slug: "member"}).email for _ in range(3)}
    found, cursor = [], None
    while True:
        asked = {"limit": 2} | ({} if cursor is None else {"cursor": cursor})
        page = client.get(MEMBERS, headers=admin.headers(), query_string=asked).get_json()
        found += [each["email"] for each in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert (found[0], set(found[1:]), len(found)) == (admin.email, others, 4)


def test_change_is_on_record_by_its_person_in_its_request(
    app: Flask, client: FlaskClient, admin: Account, tenant: MadeTenant
) -> None:
    email = new_email()
    answer = add_member(client, admin.headers(), email)
    made, joined = changes_of(app, answer)
    actor = {
        "id": str(admin.id),
        "email": admin.email,
        "mfa": False,
        "roles": [f"{tenant.slug}:admin"],
        "token_id": str(admin.token_id),
    }
    assert made["actor"] == joined["actor"] == actor
    assert (made["request"]["path"], joined["request"]["path"]) == (
        f"users create {email}",
        f"users join {email} {tenant.slug} member",
    )
    assert joined["scope"] == {"kind": "tenant", "tenant": tenant.slug, "tenant_id": str(tenant.id)}


def test_change_of_member_notifies_the_tenant(
    client: FlaskClient, owner_engine: Engine, admin: Account, tenant: MadeTenant
) -> None:
    email = new_email()
    path = add_member(client, admin.headers(), email).headers["Location"]
    change(client, admin.headers(), path, "PATCH", role="admin")
    change(client, admin.headers(), path, "DELETE")
    with owner_engine.connect() as connection:
        told = connection.scalars(
            text("select event from notices where body->'data'->>'member' = :email order by id"),
            {"email": email},
        )
        assert sorted(told) == ["changed", "joined", "left"]


def test_tenant_keeps_an_admin(app: Flask, client: FlaskClient, admin: Account) -> None:
    own = f"{MEMBERS}/{admin.id}"
    for method, changes in (("PATCH", {"role": "member"}), ("DELETE", {})):
        answer = change(client, admin.headers(), own, method, **changes)
        assert problem(answer)[:2] == (409, "conflict")
        assert "keeps an admin" in problem(answer)[2]
    other = add_member(client, admin.headers(), new_email(), "admin")
    assert other.status_code == 201
    assert change(client, admin.headers(), own, "DELETE").status_code == 204
    assert client.get(MEMBERS, headers=admin.headers()).status_code == 422  # of no tenant now


def test_version_that_was_changed_is_not_changed_again(
    app: Flask, client: FlaskClient, admin: Account, tenant: MadeTenant
) -> None:
    member = add_account(app, member_of={tenant.slug: "member"})
    path = f"{MEMBERS}/{member.id}"
    before = client.get(path, headers=admin.headers()).headers["ETag"]
    assert change(client, admin.headers(), path, "PATCH", role="admin").status_code == 200
    stale = admin.headers() | {"If-Match": before}
    assert client.patch(path, headers=stale, json={"role": "member"}).status_code == 412
    assert client.delete(path, headers=stale).status_code == 412
    assert client.delete(path, headers=admin.headers()).status_code == 428


@pytest.mark.parametrize("who", ["member", "outsider", "support", "auditor"])
def test_nobody_but_an_admin_changes_members(
    app: Flask, client: FlaskClient, admin: Account, tenant: MadeTenant, who: str
) -> None:
    if who == "member":
        headers = add_account(app, member_of={tenant.slug: "member"}).headers()
    elif who == "outsider":
        headers = elevated(add_account(app, member_of={add_tenant(app).slug: "admin"}), tenant)
    else:
        headers = elevated(add_account(app, who), tenant)  # type: ignore[arg-type]  # a role
    email = new_email()
    assert add_member(client, headers, email, "admin").status_code == 403
    path = f"{MEMBERS}/{admin.id}"
    sent = headers | {"If-Match": "*"}
    assert client.patch(path, headers=sent, json={"role": "member"}).status_code == 403
    assert client.delete(path, headers=sent).status_code == 403
    assert mint(client, headers, admin.email).status_code == 403
    listed = client.get(MEMBERS, headers=admin.headers()).get_json()["items"]
    assert email not in [each["email"] for each in listed]


def test_member_of_staff_is_refused_clearly(
    app: Flask, client: FlaskClient, admin: Account
) -> None:
    answer = add_member(client, admin.headers(), add_account(app, "support").email)
    assert problem(answer)[:2] == (409, "conflict")
    assert "platform role" in problem(answer)[2]


def test_member_of_another_tenant_can_be_added_and_stays_hidden_there(
    app: Flask, client: FlaskClient, admin: Account
) -> None:
    elsewhere = add_tenant(app)
    theirs = add_account(app, member_of={elsewhere.slug: "admin"})
    added = add_member(client, admin.headers(), theirs.email)
    assert (added.status_code, added.get_json()["role"]) == (201, "member")
    own = client.get(f"{MEMBERS}/{admin.id}", headers=theirs.headers(f"tenant:{elsewhere.slug}"))
    assert own.status_code == 404


def test_member_is_not_added_twice(client: FlaskClient, admin: Account) -> None:
    assert problem(add_member(client, admin.headers(), admin.email))[:2] == (409, "conflict")


def test_quota_of_members_and_tokens_is_kept(
    client: FlaskClient, admin: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "MAX_MEMBERS", 1)
    monkeypatch.setattr(minting, "MAX_TOKENS", 1)
    assert problem(add_member(client, admin.headers(), new_email()))[:2] == (409, "conflict")
    assert mint(client, admin.headers(), admin.email).status_code == 201
    assert problem(mint(client, admin.headers(), admin.email))[:2] == (409, "conflict")


def test_token_is_shown_once_good_in_its_tenant_and_revoked(
    client: FlaskClient, admin: Account, tenant: MadeTenant
) -> None:
    made = mint(client, admin.headers(), admin.email)
    assert made.status_code == 201, made.text
    secret, token = made.get_json()["secret"], made.get_json()
    assert (token["user"], token["tenant"], token["mfa"]) == (admin.email, tenant.slug, False)
    ends = datetime.fromisoformat(token["expires_at"]) - datetime.fromisoformat(token["created_at"])
    assert abs(ends - minting.LIFETIME) < timedelta(minutes=5)
    listed = client.get(TOKENS, headers=bearer(secret))
    assert [each["id"] for each in listed.get_json()["items"]] == [token["id"]]
    assert secret not in listed.text
    revoked = client.post(f"{TOKENS}/{token['id']}/revoke", headers=admin.headers())
    assert revoked.get_json()["revoked_at"] is not None
    assert client.get(TOKENS, headers=bearer(secret)).status_code == 401
    again = client.post(f"{TOKENS}/{token['id']}/revoke", headers=admin.headers())
    assert again.get_json()["revoked_at"] == revoked.get_json()["revoked_at"]


def test_token_made_in_a_tenant_carries_nothing_else_of_its_holder(
    app: Flask, client: FlaskClient, admin: Account, tenant: MadeTenant
) -> None:
    """Who administers one of somebody's tenants gets no way into the other one."""
    elsewhere = add_tenant(app)
    both = add_account(app, member_of={tenant.slug: "member", elsewhere.slug: "admin"})
    secret = mint(client, admin.headers(), both.email).get_json()["secret"]
    rules = "/admin/api/rules"
    assert client.get(rules, headers=bearer(secret)).status_code == 200
    there = bearer(secret) | {"Sightline-Scope": f"tenant:{elsewhere.slug}"}
    assert problem(client.get(rules, headers=there))[:2] == (400, "reason_required")
    assert client.get(MEMBERS, headers=bearer(secret)).status_code == 403
    listed = client.get(TOKENS, headers=both.headers(f"tenant:{elsewhere.slug}"))
    assert listed.get_json()["items"] == []


def test_tokens_of_a_tenant_end_with_the_membership(
    app: Flask, client: FlaskClient, admin: Account, tenant: MadeTenant
) -> None:
    member = add_account(app, member_of={tenant.slug: "member"})
    made = mint(client, admin.headers(), member.email).get_json()
    path = f"{MEMBERS}/{member.id}"
    assert change(client, admin.headers(), path, "DELETE").status_code == 204
    assert client.get("/admin/api/rules", headers=bearer(made["secret"])).status_code == 401
    assert add_member(client, admin.headers(), member.email).status_code == 201
    assert client.get("/admin/api/rules", headers=bearer(made["secret"])).status_code == 401
    token = client.get(f"{TOKENS}/{made['id']}", headers=admin.headers()).get_json()
    assert token["revoked_at"] is not None


def test_event_of_a_tenants_token_is_told_to_no_other_tenant(
    app: Flask, client: FlaskClient, admin: Account, tenant: MadeTenant
) -> None:
    elsewhere = add_tenant(app)
    both = add_account(app, member_of={tenant.slug: "member", elsewhere.slug: "member"})
    made = mint(client, admin.headers(), both.email)
    (event,) = changes_of(app, made)
    token_id = made.get_json()["id"]
    assert event["scope"]["tenant"] == tenant.slug
    assert event["request"]["path"] == f"tokens create {token_id} for {both.email} in {tenant.slug}"
    assert made.get_json()["secret"] not in str(event)


@pytest.mark.parametrize("days", [-1, 0, 367])
def test_token_that_does_not_end_within_a_year_is_refused(
    client: FlaskClient, admin: Account, days: int
) -> None:
    ends = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    answer = mint(client, admin.headers(), admin.email, expires_at=ends)
    assert problem(answer)[:2] == (422, "invalid")


def test_token_for_somebody_else_is_refused_like_one_for_nobody(
    app: Flask, client: FlaskClient, admin: Account
) -> None:
    theirs = add_account(app, member_of={add_tenant(app).slug: "member"})
    answers = [mint(client, admin.headers(), user) for user in (theirs.email, new_email())]
    assert [problem(answer) for answer in answers] == [
        (422, "invalid", "The user is no member of the tenant.")
    ] * 2


def test_owner_makes_renames_and_ends_a_tenant(
    app: Flask, client: FlaskClient, owner: Account
) -> None:
    slug = f"t-{uuid4().hex}"
    made = client.post(TENANTS, headers=elevated(owner), json={"slug": slug})
    assert made.status_code == 201, made.text
    assert (made.get_json()["slug"], made.get_json()["name"]) == (slug, slug)
    tenant, path = MadeTenant(made.get_json()["id"], slug), made.headers["Location"]
    renamed = change(client, elevated(owner, tenant), path, "PATCH", name="Acme", slug=f"{slug}-2")
    assert (renamed.get_json()["name"], renamed.get_json()["slug"]) == ("Acme", f"{slug}-2")
    tenant = MadeTenant(tenant.id, f"{slug}-2")
    added = add_member(client, elevated(owner, tenant), new_email(), "admin")
    assert added.status_code == 201, added.text
    ended = change(client, elevated(owner, tenant), path, "DELETE")
    assert ended.status_code == 204
    paths = [event["request"]["path"] for event in changes_of(app, ended)]
    assert sorted(paths) == [
        f"tenants end {slug}-2",
        f"users leave {added.get_json()['email']} {slug}-2",
    ]
    shown = client.get(path, headers=elevated(owner)).get_json()
    assert shown["ended_at"] is not None
    assert client.get(path, headers=elevated(owner, tenant)).status_code == 404


def test_taken_slug_is_a_conflict(client: FlaskClient, owner: Account, tenant: MadeTenant) -> None:
    answer = client.post(TENANTS, headers=elevated(owner), json={"slug": tenant.slug})
    assert problem(answer)[:2] == (409, "conflict")


def test_admin_sees_own_tenant_and_cannot_change_it(
    client: FlaskClient, admin: Account, tenant: MadeTenant
) -> None:
    listed = client.get(TENANTS, headers=admin.headers()).get_json()
    assert [each["slug"] for each in listed["items"]] == [tenant.slug]
    sent = admin.headers() | {"If-Match": "*"}
    path = f"{TENANTS}/{tenant.id}"
    assert client.patch(path, headers=sent, json={"name": "x"}).status_code == 403
    assert client.delete(path, headers=sent).status_code == 403
    assert client.post(TENANTS, headers=sent, json={"slug": "mine"}).status_code == 403


def test_staff_cannot_make_a_token_of_a_tenants_member(
    client: FlaskClient, owner: Account, admin: Account, tenant: MadeTenant
) -> None:
    answer = mint(client, elevated(owner, tenant), admin.email)
    assert problem(answer)[:2] == (403, "forbidden")
    assert "own admins" in problem(answer)[2]


def test_staff_can_make_tokens_of_services_only_and_bind_them(
    app: Flask, client: FlaskClient, owner: Account, tenant: MadeTenant
) -> None:
    for person in (owner, add_account(app, "support")):
        answer = mint(client, elevated(owner), person.email)
        assert problem(answer)[:2] == (422, "invalid")
    service = add_account(app, "service")
    made = mint(client, elevated(owner), service.email)
    assert (made.status_code, made.get_json()["tenant"]) == (201, None)
    path = f"{TOKENS}/{made.get_json()['id']}"
    bindings = {"surfaces": ["billing.*"], "tenants": [tenant.slug], "reports_mfa": True}
    bound = client.post(f"{path}/bind", headers=elevated(owner), json=bindings).get_json()
    assert bound["bindings"] == bindings | {"break_glass": False}
    assert client.get(path, headers=elevated(owner)).get_json()["bindings"] == bound["bindings"]
    revoked = client.post(f"{path}/revoke", headers=elevated(owner))
    assert revoked.get_json()["revoked_at"] is not None
    again = client.post(f"{path}/bind", headers=elevated(owner), json=bindings)
    assert problem(again)[:2] == (404, "not_found")


def test_token_of_a_person_is_not_bound(
    client: FlaskClient, owner: Account, admin: Account
) -> None:
    answer = client.post(
        f"{TOKENS}/{admin.token_id}/bind", headers=elevated(owner), json={"surfaces": ["*"]}
    )
    assert problem(answer)[:2] == (422, "invalid")


def test_token_of_a_tenant_is_revoked_in_its_scope_only(
    client: FlaskClient, owner: Account, admin: Account, tenant: MadeTenant
) -> None:
    token = mint(client, admin.headers(), admin.email).get_json()
    path = f"{TOKENS}/{token['id']}/revoke"
    assert problem(client.post(path, headers=elevated(owner)))[:2] == (422, "invalid")
    assert client.post(path, headers=elevated(owner, tenant)).status_code == 200


def test_platforms_token_is_no_tenants(
    client: FlaskClient, owner: Account, admin: Account, tenant: MadeTenant
) -> None:
    """Who administers a tenant neither sees nor ends a token that was made by a command."""
    path = f"{TOKENS}/{admin.token_id}"
    assert client.get(path, headers=admin.headers()).status_code == 404
    assert client.post(f"{path}/revoke", headers=admin.headers()).status_code == 404
    assert client.post(f"{path}/revoke", headers=elevated(owner, tenant)).status_code == 404
    assert client.post(f"{path}/revoke", headers=elevated(owner)).status_code == 200


def test_last_token_of_an_owner_is_kept(
    client: FlaskClient, owner: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minting, "count_owners", lambda session: 0)
    answer = client.post(f"{TOKENS}/{owner.token_id}/revoke", headers=elevated(owner))
    assert problem(answer)[:2] == (409, "conflict")
    assert client.get(TENANTS, headers=elevated(owner)).status_code == 200


@contextmanager
def meanwhile(
    environment: dict[str, str], tenant: MadeTenant, statement: str, user_id: UUID
) -> Iterator[Callable[[Callable[[], TestResponse]], Future[TestResponse]]]:
    """Have requests wait for the tenant, and change something before they go on."""
    with ThreadPoolExecutor(1) as thread, connected(environment, "commands") as holder:
        holder.execute(text(f"set role {DIRECTORY_ROLE}"))
        holder.execute(LOCK, {"id": tenant.id}).one()

        def send(request: Callable[[], TestResponse]) -> Future[TestResponse]:
            answer = thread.submit(request)
            wait_for(lambda: holder.scalar(WAITING) == 1)
            return answer

        yield send
        holder.execute(text(statement), {"id": user_id})
        holder.commit()


LOCK = text("select id from tenants where id = :id for update")
DEMOTE = "update memberships set role = 'member' where principal_id = :id"


def test_admin_whose_role_ends_while_a_change_waits_is_refused(
    app: Flask,
    client: FlaskClient,
    environment: dict[str, str],
    admin: Account,
    tenant: MadeTenant,
) -> None:
    other, email = add_account(app, member_of={tenant.slug: "admin"}), new_email()
    with meanwhile(environment, tenant, DEMOTE, admin.id) as send:
        answer = send(lambda: add_member(app.test_client(), admin.headers(), email))
    assert problem(answer.result())[:2] == (403, "forbidden")
    listed = client.get(MEMBERS, headers=other.headers()).get_json()["items"]
    assert {each["email"] for each in listed} == {admin.email, other.email}


def test_last_admin_stays_although_the_other_one_ends_meanwhile(
    app: Flask, environment: dict[str, str], admin: Account, tenant: MadeTenant
) -> None:
    other = add_account(app, member_of={tenant.slug: "admin"})
    path, sent = f"{MEMBERS}/{admin.id}", admin.headers() | {"If-Match": "*"}
    with meanwhile(environment, tenant, DEMOTE, other.id) as send:
        answer = send(lambda: app.test_client().delete(path, headers=sent))
    assert problem(answer.result())[:2] == (409, "conflict")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", MEMBERS), ("POST", MEMBERS)], ids=["list", "add"]
)
def test_members_are_of_one_tenant(
    client: FlaskClient, owner: Account, method: str, path: str
) -> None:
    body = {"email": new_email()} if method == "POST" else None
    answer = client.open(path, method=method, headers=elevated(owner), json=body)
    assert problem(answer)[:2] == (422, "invalid")


def test_tenant_is_made_in_the_scope_of_all(
    client: FlaskClient, owner: Account, tenant: MadeTenant
) -> None:
    answer = client.post(TENANTS, headers=elevated(owner, tenant), json={"slug": "never-made"})
    assert problem(answer)[:2] == (422, "invalid")
