"""The commands `show`, `rename` and `end` of `flask tenants` and `flask users`."""

from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, text

from tests.audit.ledgers import owner_connection
from tests.audit.receipts import second_connection
from tests.conftest import Run
from tests.directory.test_cli import refuse, succeed, unique, who
from tests.elevations.calls import ask, question
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.operators import WHY
from tests.rules.calls import add_rule
from webapp.audit.models import AuditEventRow
from webapp.db.scopes import DirectoryScope
from webapp.directory import service
from webapp.extensions import db
from webapp.identity import lookup, tokens
from webapp.identity.models import MembershipRow
from webapp.identity.principal import Principal

RULES = "/admin/api/rules"


def recorded(app: Flask, *paths: str) -> list[tuple[str, int | None]]:
    """The recorded commands among these, each with its number of rows."""
    with second_connection(app) as session:
        path = AuditEventRow.event["request"]["path"].astext
        rows = session.execute(
            select(path, AuditEventRow.event["rows"])
            .where(path.in_(paths))
            .order_by(AuditEventRow.origin_seq)
        )
        return [(path, count) for path, count in rows]


def add_member(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "member"})


def statuses(account: Account, *clients: FlaskClient, scope: str | None = None) -> list[int]:
    headers = account.headers(scope, INCIDENT if scope else None)
    return [client.get(RULES, headers=headers).status_code for client in clients]


def find_person(app: Flask, email: str) -> Principal | None:
    with app.app_context():
        return lookup.find_principal(email, mfa=False)


def test_tenant_is_shown_with_its_members(run: Run, app: Flask, tenant: MadeTenant) -> None:
    member, admin = add_member(app, tenant), add_account(app, member_of={tenant.slug: "admin"})
    shown = succeed(run, "tenants", "show", tenant.slug)
    assert (shown["slug"], shown["id"], shown["ended_at"]) == (tenant.slug, str(tenant.id), None)
    assert {(m["user"], m["role"]) for m in shown["members"]} == {
        (member.email, "member"),
        (admin.email, "admin"),
    }
    text = run("tenants", "show", tenant.slug).stdout
    assert f"slug: {tenant.slug}\n" in text
    assert f"id: {tenant.id}\n" in text
    assert "ended at: -\n" in text
    assert all(account.email in text for account in (member, admin))
    refuse(run, "tenants", "show", "no-such", says="There is no tenant no-such.")


def test_user_is_shown_with_roles_and_tokens(run: Run, app: Flask, tenant: MadeTenant) -> None:
    member = add_account(app, member_of={tenant.slug: "admin"})
    shown = succeed(run, "users", "show", member.email)
    assert [(m["tenant"], m["role"]) for m in shown["memberships"]] == [(tenant.slug, "admin")]
    account = add_account(app, "support", "auditor")
    shown = succeed(run, "users", "show", account.email.upper())
    assert (shown["email"], shown["id"]) == (account.email, str(account.id))
    assert shown["platform_roles"] == ["auditor", "support"]
    assert [token["id"] for token in shown["tokens"]] == [str(account.token_id)]
    text = run("users", "show", account.email).stdout
    assert "platform roles: auditor, support\n" in text
    assert str(account.token_id) in text
    assert account.token not in text
    refuse(run, "users", "show", "no@example.org", says="There is no user no@example.org.")


def test_renamed_tenant_is_found_by_its_new_slug_in_every_process(
    app: Flask, other_app: Flask, run: Run, tenant: MadeTenant, admin: Account
) -> None:
    new = unique("renamed")
    clients = [app.test_client(), other_app.test_client()]
    made = add_rule(clients[0], admin.headers())
    for client in clients:
        assert client.get(RULES, headers=admin.headers()).get_json()["items"] == [made]
    succeed(run, "tenants", "rename", tenant.slug, "--slug", new, "--name", "New Name")
    for client in clients:
        (listed,) = client.get(RULES, headers=admin.headers()).get_json()["items"]
        assert (listed["id"], listed["tenant"]) == (made["id"], new)
        named = client.get(RULES, headers=admin.headers(f"tenant:{new}"))
        assert named.get_json()["items"] == [listed]
    for place in (app, other_app):
        assert who(place, admin.token).roles == (f"{new}:admin",)
        with place.app_context():
            assert lookup.find_tenant_id(tenant.slug) is None
            assert lookup.find_tenant_id(new) == tenant.id
    [(path, _)] = recorded(app, f"flask tenants rename {tenant.slug} --slug {new} --name New Name")
    assert path


def test_tenant_is_renamed_in_part(run: Run, tenant: MadeTenant) -> None:
    renamed = succeed(run, "tenants", "rename", tenant.slug, "--name", "Only the name")
    assert (renamed["slug"], renamed["name"]) == (tenant.slug, "Only the name")
    slug = unique("renamed")
    renamed = succeed(run, "tenants", "rename", tenant.slug, "--slug", slug)
    assert (renamed["slug"], renamed["name"]) == (slug, "Only the name")


def test_tenant_is_not_renamed_to_a_taken_or_invalid_name(
    app: Flask, run: Run, tenant: MadeTenant
) -> None:
    other = add_tenant(app)
    rename = ("tenants", "rename", tenant.slug)
    refuse(run, *rename, "--slug", other.slug, says=f"There is a tenant {other.slug} already.")
    refuse(run, *rename, "--slug", "Not A Slug", says="The slug must be")
    refuse(run, *rename, "--name", "", says="The name must be")
    refuse(run, *rename, says="Give --slug, --name, or both.", code=2)
    refuse(run, "tenants", "rename", "no-such", "--name", "x", says="There is no tenant no-such.")
    assert succeed(run, "tenants", "show", tenant.slug)["name"] == f"Tenant {tenant.slug}"


def test_renamed_user_keeps_roles_and_tokens_in_every_process(
    app: Flask, other_app: Flask, run: Run, tenant: MadeTenant
) -> None:
    account = add_account(app, member_of={tenant.slug: "member"})
    new = f"{unique('new')}@example.org"
    for place in (app, other_app):
        assert who(place, account.token).email == account.email
        assert find_person(place, account.email) is not None
    renamed = succeed(run, "users", "rename", account.email, new.upper(), *WHY)
    assert (renamed["id"], renamed["email"], renamed["rules"]) == (str(account.id), new, [])
    for place in (app, other_app):
        principal = who(place, account.token)
        assert (principal.id, principal.email) == (account.id, new)
        assert principal.roles == (f"{tenant.slug}:member",)
        assert find_person(place, account.email) is None
    assert recorded(app, f"flask users rename {account.email} {new}")


def test_renaming_a_user_lists_rules_that_no_longer_apply(
    app: Flask, run: Run, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    account = add_account(app, "support")
    naming = {"roles": [], "users": [account.email.title()]}
    other = {"roles": [], "users": [f"x{account.email}"]}
    rule = add_rule(client, admin.headers(), "names them", subjects=naming)
    add_rule(client, admin.headers(), "names another", subjects=other)
    first, second = (f"{unique('new')}@example.org" for _ in range(2))
    text = run("users", "rename", account.email, first, *WHY).stdout
    assert f"The user {account.email} is now {first}.\n" in text
    assert "names them" in text
    assert rule["id"] in text
    assert "names another" not in text
    back = succeed(run, "users", "rename", first, account.email, *WHY)
    assert back["rules"] == []
    [named] = succeed(run, "users", "rename", account.email, second, *WHY)["rules"]
    assert named == {"tenant": tenant.slug, "name": "names them", "id": rule["id"]}


def test_user_is_not_renamed_to_a_taken_or_invalid_address(app: Flask, run: Run) -> None:
    account, other = add_account(app), add_account(app)
    rename = ("users", "rename", *WHY, account.email)
    refuse(run, *rename, other.email.upper(), says=f"There is a user {other.email} already.")
    refuse(run, *rename, "ann", says="The email must be")
    refuse(run, "users", "rename", *WHY, "no@example.org", "x@example.org", says="There is no user")
    assert who(app, account.token).email == account.email


def test_ended_user_is_refused_from_the_next_request_in_every_process(
    app: Flask, other_app: Flask, run: Run, tenant: MadeTenant
) -> None:
    account = add_account(app, member_of={tenant.slug: "member"})
    succeed(run, "tokens", "create", account.email, "--name", "second")
    clients = [app.test_client(), other_app.test_client()]
    assert statuses(account, *clients, scope=f"tenant:{tenant.slug}") == [200, 200]
    ended = succeed(run, "users", "end", account.email, "--yes")
    assert ended == {
        "email": account.email,
        "tokens": 2,
        "platform_roles": 0,
        "memberships": 1,
    }
    assert statuses(account, *clients, scope=f"tenant:{tenant.slug}") == [401, 401]
    shown = succeed(run, "users", "show", account.email)
    assert shown["ended_at"] is not None
    assert (shown["platform_roles"], shown["memberships"]) == ([], [])
    assert all(token["revoked_at"] for token in shown["tokens"])
    [listed] = [u for u in succeed(run, "users", "list")["items"] if u["email"] == account.email]
    assert (listed["ended_at"], listed["roles"]) == (shown["ended_at"], [])
    assert recorded(app, f"flask users end {account.email}") == [
        (f"flask users end {account.email}", 1)
    ]


def test_platform_roles_end_with_their_user(app: Flask, run: Run) -> None:
    account = add_account(app, "support", "owner")
    ended = succeed(run, "users", "end", account.email, "--yes")
    assert (ended["platform_roles"], ended["memberships"]) == (2, 0)
    assert succeed(run, "users", "show", account.email)["platform_roles"] == []


def test_ended_user_gets_nothing_new(app: Flask, run: Run, tenant: MadeTenant) -> None:
    account = add_account(app)
    email, says = account.email, f"The user {account.email} has ended."
    assert run("users", "end", email, "--yes").exit_code == 0
    refuse(run, "users", "end", email, "--yes", says=says)
    refuse(run, "users", "grant", email, "owner", says=says)
    refuse(run, "users", "join", email, tenant.slug, says=says)
    refuse(run, "tokens", "create", email, "--name", "x", says=says)
    refuse(run, "users", "create", email, says=f"There is a user {email} already.")


def test_address_of_ended_user_is_free_after_renaming(app: Flask, run: Run) -> None:
    account = add_account(app)
    assert run("users", "end", account.email, "--yes").exit_code == 0
    assert run("users", "rename", *WHY, account.email, f"former-{account.email}").exit_code == 0
    anew = succeed(run, "users", "create", account.email)
    assert anew["id"] != str(account.id)
    person = find_person(app, account.email)
    assert person is not None
    assert (str(person.id), person.ended) == (anew["id"], False)


def test_token_written_while_a_user_ended_is_refused(app: Flask, tenant: MadeTenant) -> None:
    account = add_account(app)
    secret = tokens.make_secret()
    with app.app_context(), db.scoped(DirectoryScope()):
        service.end_user(account.email)
        db.session.commit()
    late = (
        "insert into api_tokens (id, principal_id, name, token_hash) values (:id, :of, 'x', :hash)"
    )
    with owner_connection(app) as owner:
        hashed = tokens.digest(secret)
        owner.execute(text(late), {"id": uuid4(), "of": account.id, "hash": hashed})
    answer = app.test_client().get(RULES, headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 401


def test_elevation_of_ended_user_is_denied_to_another_service(
    app: Flask,
    run: Run,
    client: FlaskClient,
    tenant: MadeTenant,
    owner: Account,
) -> None:
    person, service_account = add_account(app), add_account(app, "service")
    naming = {"roles": [], "users": [person.email]}
    surface = f"crm.s{uuid4().hex}.read"
    allow = {"effect": "allow", "subjects": naming, "surfaces": [surface]}
    rule = add_rule(client, owner.headers("global", INCIDENT), unique("allow"), **allow)

    def decision(key: str) -> dict[str, Any]:
        body = question(person.email, tenant, surface=surface)
        answer: dict[str, Any] = ask(client, service_account, body, key).get_json()
        return answer

    assert decision("before")["decision"] == "allowed"
    assert run("users", "end", person.email, "--yes").exit_code == 0
    after = decision("after")
    assert (after["decision"], after["explanation"]) == ("denied", "The user has ended.")
    assert after["rules"] == [rule["id"]]


def test_ended_tenant_has_no_members_and_cannot_be_elevated_to(
    app: Flask, other_app: Flask, run: Run, tenant: MadeTenant, admin: Account
) -> None:
    member, engineer = add_member(app, tenant), add_account(app, "engineer")
    clients = [app.test_client(), other_app.test_client()]
    add_rule(clients[0], admin.headers())
    scope = f"tenant:{tenant.slug}"
    assert statuses(member, *clients) == [200, 200]
    assert statuses(engineer, *clients, scope=scope) == [200, 200]
    ended = succeed(run, "tenants", "end", tenant.slug, "--yes")
    assert ended == {"slug": tenant.slug, "memberships": 2}
    assert statuses(member, *clients) == [422, 422]  # no tenant is left to be the default
    assert statuses(member, *clients, scope=scope) == [403, 403]
    assert statuses(engineer, *clients, scope=scope) == [404, 404]
    shown = succeed(run, "tenants", "show", tenant.slug)
    assert shown["ended_at"] is not None
    assert shown["members"] == []
    [listed] = [t for t in succeed(run, "tenants", "list")["items"] if t["slug"] == tenant.slug]
    assert listed["ended_at"] == shown["ended_at"]
    assert recorded(app, f"flask tenants end {tenant.slug}") == [
        (f"flask tenants end {tenant.slug}", 1)
    ]


def test_records_of_ended_tenant_stay(
    app: Flask, run: Run, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    rule = add_rule(client, admin.headers())
    assert run("tenants", "end", tenant.slug, "--yes").exit_code == 0
    assert succeed(run, "rules", "list", "--tenant", tenant.slug, *WHY)["items"] == [rule]
    assert run("audit", "search", "--tenant", tenant.slug, *WHY).exit_code == 0
    assert run("grants", "list", "--tenant", tenant.slug, *WHY).exit_code == 0


def test_ended_tenant_gets_nothing_new(
    app: Flask, run: Run, client: FlaskClient, tenant: MadeTenant, owner: Account, support: Account
) -> None:
    account, says = add_account(app), f"The tenant {tenant.slug} has ended."
    assert run("tenants", "end", tenant.slug, "--yes").exit_code == 0
    refuse(run, "tenants", "end", tenant.slug, "--yes", says=says)
    refuse(run, "users", "join", account.email, tenant.slug, says=says)
    refuse(run, "tenants", "create", tenant.slug, says=f"There is a tenant {tenant.slug} already.")
    draft = {"name": "x", "effect": "deny", "surfaces": ["*"], "tenant": tenant.slug}
    answer = client.post(RULES, json=draft, headers=owner.headers("global", INCIDENT))
    assert (answer.status_code, list(answer.get_json()["errors"])) == (422, ["tenant"])
    wanted = {
        "surfaces": ["admin.rules.list"],
        "tenants": [tenant.slug],
        "reason": {"code": "incident", "ticket": "INC-1"},
        "minutes": 5,
    }
    answer = client.post("/admin/api/grants", json=wanted, headers=support.headers())
    assert (answer.status_code, list(answer.get_json()["errors"])) == (422, ["tenants.0"])


@pytest.mark.parametrize("command", ["tenants", "users"])
def test_ending_asks_before_it_changes_anything(app: Flask, command: str) -> None:
    tenant, account = add_tenant(app), add_account(app)
    name = tenant.slug if command == "tenants" else account.email
    runner = app.test_cli_runner()
    for typed, code in (("n\n", 1), ("", 1), ("y\n", 0)):
        result = runner.invoke(args=[command, "end", name], input=typed)
        assert result.exit_code == code
        shown = runner.invoke(args=[command, "show", name]).stdout
        assert ("ended at: -\n" in shown) == (code != 0)


def test_membership_written_while_a_tenant_ended_counts_for_nothing(
    app: Flask, tenant: MadeTenant
) -> None:
    account = add_account(app)
    with app.app_context(), db.scoped(DirectoryScope()):
        service.end_tenant(tenant.slug)
        late = MembershipRow(tenant_id=tenant.id, principal_id=account.id, role="admin")
        db.session.add(late)
        db.session.commit()
    assert who(app, account.token).roles == ()
