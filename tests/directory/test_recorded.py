"""Every change of identity leaves its event, committed with it, whoever makes the change."""

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, Text, cast, select, text

from tests.audit.ledgers import owner_connection
from tests.audit.receipts import second_connection, wait_for
from tests.conftest import Run
from tests.directory.test_cli import succeed, unique
from tests.factories import Account, MadeTenant, add_account, add_tenant
from tests.operators import OPERATOR
from webapp.audit.append import OWN_JOURNAL
from webapp.audit.event import AuditEvent, dump_event, load_event
from webapp.audit.models import AuditEventRow


def test_changing_command_is_recorded_with_its_change(app: Flask, run: Run) -> None:
    slug, email = unique("acme"), f"{unique('ann')}@example.org"
    run("tenants", "create", slug)
    run("users", "create", email)
    run("users", "join", email, slug, "--role", "admin")
    made = succeed(run, "tokens", "create", email, "--name", "x")
    run("users", "leave", email, slug)
    run("users", "grant", email, "service")
    run("tokens", "bind", made["id"], "--surface", "shop.*", "--tenant", slug)
    run("tokens", "revoke", made["id"])
    run("users", "grant", email, "support")
    run("users", "revoke", email, "support")
    paths = [
        f"flask tenants create {slug}",
        f"flask users create {email}",
        f"flask users join {email} {slug} admin",
        f"flask tokens create {made['id']} for {email}",
        f"flask users leave {email} {slug}",
        f"flask users grant {email} service",
        f"flask tokens bind {made['id']} --surface shop.* --tenant {slug}",
        f"flask tokens revoke {made['id']}",
        f"flask users grant {email} support",
        f"flask users revoke {email} support",
    ]
    with second_connection(app) as session:
        path = AuditEventRow.event["request"]["path"].astext
        recorded = session.execute(
            select(path, AuditEventRow.kind, AuditEventRow.actor_email, AuditEventRow.origin_seq)
            .where(path.in_(paths))
            .order_by(AuditEventRow.origin_seq)
        ).all()
    assert [row[0] for row in recorded] == paths
    assert {(row[1], row[2]) for row in recorded} == {("change", OPERATOR)}
    numbers = [row[3] for row in recorded]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_failed_command_is_not_recorded(app: Flask, run: Run) -> None:
    email = f"{unique('ann')}@example.org"
    assert run("users", "grant", email, "support").exit_code != 0
    with second_connection(app) as session:
        path = AuditEventRow.event["request"]["path"].astext
        assert session.scalars(select(path).where(path.contains(email))).all() == []


RULES = "/admin/api/rules"


class Somebody:
    """A member of a tenant with a token, one of the staff, and what SQL may name of them."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.tenant: MadeTenant = add_tenant(app)
        self.other: MadeTenant = add_tenant(app)
        self.account: Account = add_account(app, member_of={self.tenant.slug: "member"})
        self.staff: Account = add_account(app, "support")

    @property
    def names(self) -> dict[str, Any]:
        return {
            "tenant": self.tenant.id,
            "other": self.other.id,
            "user": self.account.id,
            "staff": self.staff.id,
            "token": self.account.token_id,
        }

    @property
    def words(self) -> dict[str, str]:
        return {
            "SLUG": self.tenant.slug,
            "OTHER": self.other.slug,
            "EMAIL": self.account.email,
            "STAFF": self.staff.email,
            "TOKEN": str(self.account.token_id),
        }


@pytest.fixture
def somebody(app: Flask) -> Somebody:
    return Somebody(app)


def last_number(owner: Connection) -> int:
    numbers = text("select max(seq) from audit_numbers where journal = :own")
    return int(owner.scalar(numbers, {"own": OWN_JOURNAL}) or 0)


def lift(owner: Connection) -> None:
    """Let the owner see the rows of tenants, which row level security hides from it too."""
    for table in ("tenants", "memberships"):
        owner.execute(text(f"alter table {table} no force row level security"))


def force(owner: Connection) -> None:
    owner.execute(text("set constraints all immediate"))  # what is pending keeps a table from it
    for table in ("tenants", "memberships"):
        owner.execute(text(f"alter table {table} force row level security"))


def change(somebody: Somebody, statement: str, **names: str) -> list[AuditEvent]:
    """Change identity as the tables' owner, and return the events that this left."""
    with owner_connection(somebody.app) as owner:
        lift(owner)
        number = last_number(owner)
        owner.execute(text(statement), somebody.names | names)
        force(owner)
    with second_connection(somebody.app) as session:
        own = AuditEventRow.origin_journal == OWN_JOURNAL
        since = select(cast(AuditEventRow.event, Text)).where(
            own, AuditEventRow.origin_seq > number
        )
        found = session.scalars(since.order_by(AuditEventRow.origin_seq)).all()
    # Only canonical bytes are loaded.
    return [load_event(event.encode()) for event in found]


BY_SQL = {
    "grant": (
        "insert into platform_roles values (:staff, 'owner')",
        ["users grant STAFF owner"],
    ),
    "change of a role": (
        "update platform_roles set role = 'owner' where principal_id = :staff",
        ["users revoke STAFF support", "users grant STAFF owner"],
    ),
    "loss of a role": (
        "delete from platform_roles where principal_id = :staff",
        ["users revoke STAFF support"],
    ),
    "join": (
        "insert into memberships values (:other, :user, 'admin')",
        ["users join EMAIL OTHER admin"],
    ),
    "change of a membership": (
        "update memberships set role = 'admin' where principal_id = :user",
        ["users join EMAIL SLUG admin"],
    ),
    "move to another tenant": (
        "update memberships set tenant_id = :other where principal_id = :user",
        ["users leave EMAIL SLUG", "users join EMAIL OTHER member"],
    ),
    "leave": ("delete from memberships where principal_id = :user", ["users leave EMAIL SLUG"]),
    "mint": (
        "insert into api_tokens (id, principal_id, name, token_hash)"
        " values ('00000000-0000-7000-8000-00000000000a', :user, 'x', sha256(:user::text::bytea))",
        ["tokens create 00000000-0000-7000-8000-00000000000a for EMAIL"],
    ),
    "revocation": (
        "update api_tokens set revoked_at = now() where id = :token",
        ["tokens revoke TOKEN"],
    ),
    "longer life": (
        "update api_tokens set expires_at = now() where id = :token",
        ["tokens change TOKEN of EMAIL"],
    ),
    "second factor": (
        "update api_tokens set mfa = not mfa where id = :token",
        ["tokens change TOKEN of EMAIL"],
    ),
    "bindings": (
        "update api_tokens set surfaces = '{shop.*,desk.read}', tenant_ids = array[cast(:tenant"
        " as uuid)], break_glass = true, reports_mfa = true where id = :token",
        [
            "tokens bind TOKEN --surface shop.* --surface desk.read --tenant SLUG --break-glass"
            " --reports-mfa"
        ],
    ),
    "bindings to all tenants": (
        "update api_tokens set tenant_ids = null where id = :token",
        ["tokens bind TOKEN --all-tenants"],
    ),
    "end of a user": (
        "update principals set ended_at = now() where id = :user",
        ["users end EMAIL"],
    ),
    "removal of a token": (
        "delete from api_tokens where id = :token",
        ["tokens delete TOKEN of EMAIL"],
    ),
    "end of a tenant": (
        "update tenants set ended_at = now() where id = :tenant",
        ["tenants end SLUG"],
    ),
    "name of a tenant": (
        "update tenants set name = 'Acme Inc.' where id = :tenant",
        ["tenants rename SLUG --name Acme Inc."],
    ),
    "last use": ("update api_tokens set last_used_at = now() where id = :token", []),
    "no change": ("update platform_roles set role = role where role = 'nobody'", []),
}


@pytest.mark.parametrize("how", BY_SQL)
def test_change_by_sql_leaves_one_event_for_each_row(somebody: Somebody, how: str) -> None:
    statement, expected = BY_SQL[how]
    events = change(somebody, statement.replace(":user::text", "cast(:user as text)"))
    for word, value in somebody.words.items():
        expected = [path.replace(word, value) for path in expected]
    assert [event.request.path for event in events] == expected
    for event in events:
        assert event.surface == ".".join(event.request.path.split()[:2])
        assert (event.kind, event.actor.email) == ("change", "operator:sightline_owner")
        assert (event.request.method, event.request.user_agent) == ("SQL", "sightline_owner")
        assert dump_event(event)


def test_token_that_is_brought_back_by_sql_leaves_an_event(somebody: Somebody) -> None:
    change(somebody, "update api_tokens set revoked_at = now() where id = :token")
    (event,) = change(somebody, "update api_tokens set revoked_at = null where id = :token")
    token_id = somebody.account.token_id
    assert event.request.path == f"tokens change the end of {token_id}"


@pytest.mark.parametrize("odd", ['q"uote', "back\\slash", "tab\tand\x01", "ünïcode ✓", "{}:,%"])
def test_event_of_odd_name_is_canonical(somebody: Somebody, odd: str) -> None:
    address = f"{odd}@{unique('x')}"
    made = "insert into principals (id, email) values (gen_random_uuid(), :address)"
    (event,) = change(somebody, made, address=address)
    assert event.request.path == f"users create {address}"


def test_truncation_leaves_an_event(somebody: Somebody) -> None:
    with owner_connection(somebody.app) as owner:
        number = last_number(owner)
        owner.execute(text("truncate api_tokens"))
        assert last_number(owner) == number + 1
        owner.rollback()


def test_change_that_is_rolled_back_leaves_no_event(somebody: Somebody) -> None:
    with owner_connection(somebody.app) as owner:
        number = last_number(owner)
        owner.execute(
            text("delete from platform_roles where principal_id = :staff"), somebody.names
        )
        owner.execute(text("set constraints all immediate"))
        assert last_number(owner) == number + 1
        owner.rollback()
    assert [event.surface for event in change(somebody, "select 1")] == []


def test_token_revoked_by_sql_is_refused_by_running_process(somebody: Somebody) -> None:
    """Without a process that tells the caches, a change counts once their leases are over."""
    client, headers = somebody.app.test_client(), somebody.account.headers()
    assert client.get(RULES, headers=headers).status_code == 200
    change(somebody, "update api_tokens set revoked_at = now() where id = :token")
    wait_for(lambda: client.get(RULES, headers=headers).status_code == 401)
