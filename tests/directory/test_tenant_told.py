"""What is done to a tenant and its people stands in its audit list, and its admins are notified."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.audit.ledgers import owner_connection
from tests.conftest import Run
from tests.directory.test_cli import refuse, succeed, unique
from tests.factories import Account, MadeTenant, add_account, add_tenant
from tests.grants.notices.channels import (
    PUBLIC,
    Hooks,
    Mailbox,
    NotifyingApp,
    drop_member_notices,
    notifying_app,
    receiving_hooks,
    receiving_mail,
    send_all,
)
from tests.operators import ACCOUNT, OPERATOR, WHY

AUDITS = "/admin/api/audits"


@pytest.fixture
def tenant(app: Flask) -> MadeTenant:
    return add_tenant(app)


@pytest.fixture
def admin(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "admin"})


@pytest.fixture
def member(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "member"})


def newest(client: FlaskClient, reader: Account) -> list[dict[str, Any]]:
    """The changes that a tenant's admin sees, the newest first."""
    answer = client.get(f"{AUDITS}?kind=change", headers=reader.headers())
    items: list[dict[str, Any]] = answer.get_json()["items"]
    return items


CHANGES: dict[str, tuple[list[str], str]] = {
    "join": (["users", "join", "STRANGER", "SLUG", "--role", "admin"], "users.join"),
    "role": (["users", "join", "EMAIL", "SLUG", "--role", "admin"], "users.join"),
    "leave": (["users", "leave", "EMAIL", "SLUG"], "users.leave"),
    "address": (["users", "rename", "EMAIL", "NEW", *WHY], "users.rename"),
    "end": (["users", "end", "EMAIL", "--yes"], "users.end"),
    "token": (["tokens", "create", "EMAIL", "--name", "x"], "tokens.create"),
    "revocation": (["tokens", "revoke", "TOKEN"], "tokens.revoke"),
    "tenant": (["tenants", "rename", "SLUG", "--name", "Acme Inc."], "tenants.rename"),
}


@pytest.mark.parametrize("how", CHANGES)
def test_change_by_a_command_is_in_the_audit_list_of_the_tenant_that_it_concerns(
    app: Flask,
    run: Run,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    member: Account,
    how: str,
) -> None:
    words, surface = CHANGES[how]
    values = {
        "EMAIL": member.email,
        "STRANGER": add_account(app).email,
        "NEW": f"{unique('new')}@example.org",
        "SLUG": tenant.slug,
        "TOKEN": str(member.token_id),
    }
    other = add_account(app, member_of={add_tenant(app).slug: "admin"})
    before = {event["id"] for event in newest(client, admin)}
    seen_elsewhere = newest(client, other)
    assert run(*(values.get(word, word) for word in words)).exit_code == 0
    events = [event for event in newest(client, admin) if event["id"] not in before]
    assert surface in {event["surface"] for event in events}
    for event in events:
        assert (event["kind"], event["request"]["method"]) == ("change", "CLI")
        assert event["scope"] == {
            "kind": "tenant",
            "tenant": tenant.slug,
            "tenant_id": str(tenant.id),
        }
    assert newest(client, other) == seen_elsewhere


def test_end_of_a_member_is_whole_in_the_tenants_list(
    run: Run, client: FlaskClient, admin: Account, member: Account
) -> None:
    """Though the membership is gone when the transaction commits."""
    before = {event["id"] for event in newest(client, admin)}
    assert run("users", "end", member.email, "--yes").exit_code == 0
    events = [event for event in newest(client, admin) if event["id"] not in before]
    assert sorted(event["surface"] for event in events) == [
        "tokens.revoke",
        "users.end",
        "users.leave",
    ]


def test_change_of_a_member_of_two_tenants_is_in_the_list_of_each(
    app: Flask, run: Run, client: FlaskClient
) -> None:
    tenants = [add_tenant(app) for _ in range(2)]
    admins = [add_account(app, member_of={each.slug: "admin"}) for each in tenants]
    both = add_account(app, member_of={each.slug: "member" for each in tenants})
    run("tokens", "create", both.email, "--name", "x")
    for tenant, admin in zip(tenants, admins, strict=True):
        event = newest(client, admin)[0]
        assert (event["surface"], event["scope"]["tenant"]) == ("tokens.create", tenant.slug)


def test_token_of_a_service_concerns_the_tenants_that_it_is_bound_to(
    app: Flask, run: Run, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    service = add_account(app, "service")
    bind = ("tokens", "bind", str(service.token_id))
    succeed(run, *bind, "--surface", "shop.*", "--tenant", tenant.slug)
    succeed(run, *bind, "--surface", "shop.*")
    events = [event for event in newest(client, admin) if event["surface"] == "tokens.bind"]
    assert len(events) == 2


def test_change_by_sql_is_in_the_tenants_list(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account, member: Account
) -> None:
    with owner_connection(app) as owner:
        owner.execute(text("alter table memberships no force row level security"))
        owner.execute(
            text("update memberships set role = 'admin' where principal_id = :id"),
            {"id": member.id},
        )
        owner.execute(text("set constraints all immediate"))
        owner.execute(text("alter table memberships force row level security"))
    event = newest(client, admin)[0]
    assert (event["surface"], event["actor"]["email"]) == (
        "users.join",
        "operator:sightline_owner",
    )
    assert event["request"]["path"] == f"users join {member.email} {tenant.slug} admin"


def test_holder_of_a_platform_role_cannot_become_a_member(
    app: Flask, run: Run, tenant: MadeTenant
) -> None:
    support = add_account(app, "support")
    refuse(run, "users", "join", support.email, tenant.slug, says="Nobody holds a platform role")
    assert succeed(run, "tenants", "show", tenant.slug)["members"] == []


def test_member_cannot_get_a_platform_role(run: Run, member: Account) -> None:
    refuse(run, "users", "grant", member.email, "support", says="Nobody holds a platform role")
    assert succeed(run, "users", "show", member.email)["platform_roles"] == []


BY_SQL = {
    "member": "insert into platform_roles values (:member, 'support')",
    "holder": "insert into memberships values (:tenant, :staff, 'admin')",
    "moved role": "update platform_roles set principal_id = :member where principal_id = :staff",
    "moved membership": "update memberships set principal_id = :staff where principal_id = :member",
}


@pytest.mark.parametrize("how", BY_SQL)
def test_nobody_is_of_both_sides_by_sql(
    app: Flask, tenant: MadeTenant, member: Account, how: str
) -> None:
    names = {"member": member.id, "staff": add_account(app, "support").id, "tenant": tenant.id}
    with owner_connection(app) as owner:
        owner.execute(text("alter table memberships no force row level security"))
        with pytest.raises(DBAPIError, match="platform role"):
            owner.execute(text(BY_SQL[how]), names)
        owner.rollback()


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_nobody_is_of_both_sides_by_two_transactions_at_once(
    app: Flask, tenant: MadeTenant, isolation: str
) -> None:
    somebody = add_account(app)
    with owner_connection(app) as first:
        first.execute(text(f"set transaction isolation level {isolation}"))
        first.execute(text("select 1 from principals limit 1"))  # takes the snapshot
        with owner_connection(app) as second:
            second.execute(text("alter table memberships no force row level security"))
            second.execute(
                text("insert into memberships values (:tenant, :id, 'admin')"),
                {"tenant": tenant.id, "id": somebody.id},
            )
            second.execute(text("set constraints all immediate"))
            second.execute(text("alter table memberships force row level security"))
        with pytest.raises(DBAPIError, match="platform role|could not serialize"):
            first.execute(
                text("insert into platform_roles values (:id, 'support')"), {"id": somebody.id}
            )
        first.rollback()


@pytest.fixture(scope="module")
def notifying(app: Flask) -> Iterator[NotifyingApp]:
    with notifying_app(app) as made:
        yield made


@pytest.fixture
def mailbox(notifying: NotifyingApp) -> Iterator[Mailbox]:
    with receiving_mail(notifying.mail_port) as received:
        yield received


@pytest.fixture
def hooks(notifying: NotifyingApp) -> Iterator[Hooks]:
    with receiving_hooks(notifying.hook_port) as received:
        yield received


def test_admins_are_notified_of_a_member(
    app: Flask,
    run: Run,
    client: FlaskClient,
    notifying: NotifyingApp,
    mailbox: Mailbox,
    hooks: Hooks,
    tenant: MadeTenant,
    admin: Account,
    member: Account,
) -> None:
    joining = add_account(app)
    drop_member_notices(app)
    run("users", "join", joining.email, tenant.slug)
    send_all(notifying.app)
    assert mailbox.recipients == [admin.email]
    (mail,) = mailbox.mails
    assert mail["Subject"] == f"{joining.email} is now member of {tenant.slug}"
    (event, *_) = newest(client, admin)
    link = f"{PUBLIC}{AUDITS}/{event['id']}"
    assert link in mail.get_content()
    (body,) = hooks.bodies
    assert body["type"] == "member.joined"
    assert body["data"] == {
        "tenant": tenant.slug,
        "member": joining.email,
        "role": "member",
        "former_role": None,
        "event": event["id"],
        "url": link,
    }


def test_admin_that_loses_the_role_is_notified_too(
    run: Run,
    notifying: NotifyingApp,
    mailbox: Mailbox,
    hooks: Hooks,
    tenant: MadeTenant,
    admin: Account,
) -> None:
    drop_member_notices(notifying.app)
    run("users", "join", admin.email, tenant.slug, "--role", "member")
    send_all(notifying.app)
    assert mailbox.recipients == [admin.email]
    run("users", "leave", admin.email, tenant.slug)
    send_all(notifying.app)
    types = [(body["type"], body["data"]["former_role"]) for body in hooks.bodies]
    assert types == [("member.changed", "admin"), ("member.left", "member")]
    assert len(mailbox.mails) == 1


def test_notice_of_a_member_waits_for_no_channel(
    app: Flask, run: Run, tenant: MadeTenant, member: Account
) -> None:
    """Where neither mail nor webhook is configured, nothing is kept."""
    run("users", "leave", member.email, tenant.slug)
    with owner_connection(app) as owner:
        waiting = text("select count(*) from notices where tenants @> array[cast(:id as uuid)]")
        assert owner.scalar(waiting, {"id": tenant.id}) > 0
        send_all(app)
        assert owner.scalar(waiting, {"id": tenant.id}) == 0


@pytest.mark.parametrize("named", [None, "ada"])
def test_operator_is_recorded_by_name_and_by_account(
    app: Flask,
    run: Run,
    client: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
    tenant: MadeTenant,
    admin: Account,
    named: str | None,
) -> None:
    settings = replace(app.extensions["settings"], operator=named)
    monkeypatch.setitem(app.extensions, "settings", settings)
    run("tenants", "rename", tenant.slug, "--name", "Acme")
    rule = {"name": "new", "effect": "deny", "surfaces": ["shop.*"]}
    file = orjson.dumps({"tenants": {tenant.slug: [rule]}}).decode()
    runner = app.test_cli_runner()
    imported = runner.invoke(args=["rules", "import", "-", "--by", admin.email, *WHY], input=file)
    assert imported.exit_code == 0, imported.output
    imports, rename = newest(client, admin)[:2]
    assert (imports["surface"], rename["surface"]) == ("rules.import", "tenants.rename")
    for event in (imports, rename):
        assert event["actor"]["email"] == (f"operator:{named}" if named else OPERATOR)
        assert event["request"]["user_agent"].startswith(ACCOUNT)
    assert imports["reason"] == {"code": "maintenance", "ticket": None, "note": admin.email}
    (made,) = client.get("/admin/api/rules", headers=admin.headers()).get_json()["items"]
    assert made["created_by"] == imports["actor"]["email"]


def test_import_of_several_owners_rules_is_recorded_for_each(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    other = add_tenant(app)
    rules = [{"name": f"r{n}", "effect": "deny", "surfaces": ["shop.*"]} for n in range(2)]
    file = orjson.dumps({"tenants": {tenant.slug: rules, other.slug: rules[:1]}}).decode()
    assert (
        app.test_cli_runner().invoke(args=["rules", "import", "-", *WHY], input=file).exit_code == 0
    )
    event = newest(client, admin)[0]
    assert (event["surface"], event["scope"]["tenant"]) == ("rules.import", tenant.slug)
    assert event["rows"] == 2
