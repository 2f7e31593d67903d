"""A change that concerns a tenant is in that tenant's audit list, from whatever scope it was made.

Each way of changing something is tried: every changing route from every scope that it has, every
changing command, and SQL on the tables of identity. Which tenants a change concerns follows from
the rows that it changed, and not from what it recorded.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import ColumnElement, case, inspect, select, text
from uuid_utils.compat import uuid7
from werkzeug.test import TestResponse

from tests.audit.ledgers import owner_connection
from tests.audit.receipts import committed, receipt, wait_for
from tests.conftest import Run
from tests.directory.calls import MEMBERS, TENANTS, TOKENS
from tests.directory.test_recorded import BY_SQL, Somebody, force, lift
from tests.elevations.calls import ask as ask_elevation
from tests.elevations.calls import question
from tests.factories import EVERYTHING, INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.grants.calls import ask, request_body, require_approval
from tests.grants.notices.channels import add_grant, end
from tests.rules.calls import PATH as RULES
from tests.rules.calls import add_rule, draft, etag, of
from tests.test_commands import CHANGES, STATE, VOLATILE, Setting
from webapp.audit.append import OWN_JOURNAL
from webapp.audit.models import AuditEventRow, SigningKeyRow
from webapp.db.scopes import GlobalScope, TenantScope
from webapp.extensions import db
from webapp.grants.models import GrantApprovalRow, GrantRow
from webapp.identity.models import ApiToken, MembershipRow, PlatformRoleRow, PrincipalRow, Tenant
from webapp.ledger import search
from webapp.rules.models import RuleRow
from webapp.scope.decision import Surface

pytestmark = pytest.mark.slow(seconds=0.2)

GRANTS = "/admin/api/grants"
BOUND = replace(EVERYTHING, surfaces=("admin.*",))


@dataclass(frozen=True)
class Changed:
    """A row before or after a change, by the names of its columns."""

    model: type[Any]
    values: tuple[tuple[str, str], ...]

    def __getitem__(self, column: str) -> str:
        return dict(self.values)[column]


@pytest.fixture
def since() -> UUID:
    """An id below those of all rows that a test makes."""
    return uuid7()


def state(app: Flask, since: UUID) -> set[Changed]:
    """The rows of a test, as they are now."""
    found = set()
    with app.app_context():
        for scope, models in STATE.items():
            with db.scoped(scope):
                for model in models:
                    names = [c.key for c in inspect(model).columns if c.key not in VOLATILE]
                    columns = [getattr(model, name) for name in names]
                    made = select(*columns)
                    if model is not SigningKeyRow:  # its rows have no id that says when
                        key = getattr(model, "id" if "id" in names else "principal_id")
                        made = made.where(key > since)
                    for row in db.session.execute(made):
                        pairs = zip(names, map(str, row), strict=True)
                        found.add(Changed(model, tuple(pairs)))
    return found


def concerned(before: set[Changed], after: set[Changed]) -> set[UUID]:
    """The tenants that a change concerns: whose rows it changed, and those of its people."""
    members: dict[str, set[str]] = defaultdict(set)
    for row in before | after:
        if row.model is MembershipRow:
            members[row["principal_id"]].add(row["tenant_id"])
    named: set[str] = set()
    for row in before ^ after:
        if row.model is Tenant:
            named.add(row["id"])
        elif row.model is PrincipalRow:
            named |= members[row["id"]]
        elif row.model is PlatformRoleRow:
            named |= members[row["principal_id"]]
        elif row.model is ApiToken:
            bound = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", row["tenant_ids"])
            of_holder = members[row["principal_id"]]
            named |= {*of_holder, *bound} if row["tenant_id"] == "None" else {row["tenant_id"]}
        elif row.model is not SigningKeyRow:  # no tenant's, and told to nobody
            assert row.model in (MembershipRow, RuleRow, GrantRow, GrantApprovalRow)
            named.add(row["tenant_id"])
    return {UUID(tenant_id) for tenant_id in named - {"None"}}


def next_millisecond() -> datetime:
    """Wait for the next one: a moment after all events so far, and not after the next event."""
    now = datetime.now(UTC)
    begins = now.replace(microsecond=now.microsecond // 1000 * 1000) + timedelta(milliseconds=1)
    wait_for(lambda: datetime.now(UTC) >= begins)
    return begins


def sees_changes(app: Flask, tenant_id: UUID, begins: datetime) -> bool:
    """Whether a tenant's list has changes that were made from a moment on."""
    with app.app_context(), db.scoped(TenantScope(tenant_id)):
        made = set(db.session.scalars(select(AuditEventRow.id).where(_made_since(begins))))
        listed = search.list_events(db.session, search.AuditQuery(kind="change")).items
    return any(entry.id in made for entry in listed)


def tenants_of_changes(app: Flask, begins: datetime) -> set[UUID]:
    with app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        found = db.session.scalars(select(AuditEventRow.tenant_id).where(_made_since(begins)))
        return {tenant_id for tenant_id in found if tenant_id is not None}


def _made_since(begins: datetime) -> ColumnElement[bool]:
    """The condition for changes that were made from a moment on.

    Those of a request are committed later. That of a grant which expires occurred when it ended.
    """
    of_requests = AuditEventRow.origin_journal != OWN_JOURNAL
    at = case((of_requests, AuditEventRow.occurred_at), else_=AuditEventRow.committed_at)
    return (AuditEventRow.kind == "change") & (at >= begins)


def refuse_untold(
    app: Flask, since: UUID, change: Callable[[], object], *, concerns: bool = True
) -> None:
    """Fail unless each tenant that a change concerns sees it, and no other one does."""
    before, begins = state(app, since), next_millisecond()
    answer = change()
    if isinstance(answer, TestResponse):
        assert answer.status_code < 300, answer.text
        committed(app, *receipt(answer))
    after = state(app, since)
    assert before != after
    there = {UUID(row["id"]) for row in after if row.model is Tenant}
    expected = concerned(before, after) & there
    assert bool(expected) is concerns
    assert {each for each in there if sees_changes(app, each, begins)} == expected
    assert tenants_of_changes(app, begins) == expected


class Place:
    """A tenant with its people, and staff who may do everything."""

    def __init__(self, app: Flask, client: FlaskClient) -> None:
        self.app, self.client = app, client
        self.tenant: MadeTenant = add_tenant(app)
        self.admin: Account = add_account(app, member_of={self.tenant.slug: "admin"})
        self.owner: Account = add_account(app, "owner")
        self.support: Account = add_account(app, "support")

    def headers(self, scope: str) -> dict[str, str]:
        match scope:
            case "own tenant":
                return self.admin.headers()
            case "foreign tenant":
                return self.owner.headers(f"tenant:{self.tenant.slug}", INCIDENT)
        return self.owner.headers("global", INCIDENT)

    def rule(self) -> dict[str, Any]:
        return add_rule(self.client, self.admin.headers(), surfaces=["shop.nothing"])

    def request(self) -> str:
        """A request for a grant, by a member of the staff."""
        deciders = ["admin", "owner"]
        require_approval(self.client, self.admin.headers(), approver_roles=deciders)
        (grant,) = ask(self.client, self.support, [self.tenant.slug]).get_json()["items"]
        return f"{GRANTS}/{grant['id']}"

    def incident(self) -> str:
        """A use of break-glass that is over."""
        taken = {"kind": "break_glass", "state": "approved", "reason_code": "break_glass"}
        grant = add_grant(self.app, self.support, self.tenant, **taken)
        end(self.app, grant.id)
        return f"{GRANTS}/{grant.id}"

    def post(self, who: Account, path: str, **body: Any) -> TestResponse:
        return self.client.post(path, headers=who.headers(), json=body or None)


Case = Callable[[], object]
"""A change that is ready to be made."""


def create_rule(place: Place, scope: str) -> Case:
    body = draft(surfaces=["shop.nothing"])
    if scope == "all tenants":
        body["tenant"] = place.tenant.slug
    return lambda: place.client.post(RULES, headers=place.headers(scope), json=body)


def update_rule(place: Place, scope: str) -> Case:
    rule = place.rule()
    headers = place.headers(scope) | {"If-Match": etag(rule)}
    return lambda: place.client.patch(of(rule), headers=headers, json={"mfa": True})


def delete_rule(place: Place, scope: str) -> Case:
    rule = place.rule()
    headers = place.headers(scope) | {"If-Match": etag(rule)}
    return lambda: place.client.delete(of(rule), headers=headers)


def ask_for_grant(place: Place, _: str) -> Case:
    require_approval(place.client, place.admin.headers())
    body = request_body([place.tenant.slug])
    return lambda: place.post(place.support, GRANTS, **body)


def decide(action: str) -> Callable[[Place, str], Case]:
    def prepare(place: Place, by: str) -> Case:
        path, who = place.request(), getattr(place, by)
        return lambda: place.post(who, f"{path}/{action}")

    return prepare


def review(place: Place, by: str) -> Case:
    path, who = place.incident(), getattr(place, by)
    return lambda: place.post(who, f"{path}/review", text="It was needed.")


def use_break_glass(place: Place, asking: Callable[[Place, str], Case]) -> Case:
    """Prepare an access that opens an incident, on a surface of its own."""
    surface = "admin.rules.list"
    only = {"roles": [], "users": [place.support.email]}
    require_approval(place.client, place.admin.headers(), subjects=only, surfaces=[surface])
    allowing = {"effect": "allow", "reasons": ["break_glass"], "subjects": only}
    headers = place.owner.headers("global", INCIDENT)
    add_rule(place.client, headers, uuid4().hex, surfaces=[surface], **allowing)
    return asking(place, surface)


def access_by_break_glass(place: Place, _: str) -> Case:
    def asking(place: Place, _: str) -> Case:
        headers = place.support.headers(f"tenant:{place.tenant.slug}", 'break_glass;ticket="I-1"')
        return lambda: place.client.get(RULES, headers=headers)

    return use_break_glass(place, asking)


def answer_service(place: Place, _: str) -> Case:
    def asking(place: Place, surface: str) -> Case:
        service = add_account(place.app, "service", bindings=BOUND)
        body = question(place.support.email, place.tenant, "break_glass", surface=surface)
        return lambda: ask_elevation(place.client, service, body)

    return use_break_glass(place, asking)


def create_tenant(place: Place, scope: str) -> Case:
    body = {"slug": f"t-{uuid4().hex}"}
    return lambda: place.client.post(TENANTS, headers=place.headers(scope), json=body)


def change_at(
    method: str, where: Callable[[Place], str], **changes: Any
) -> Callable[[Place, str], Case]:
    """Change what is at a path, whatever its version is."""

    def prepare(place: Place, scope: str) -> Case:
        path, headers = where(place), place.headers(scope) | {"If-Match": "*"}
        return lambda: place.client.open(path, method=method, headers=headers, json=changes or None)

    return prepare


def tenant_at(place: Place) -> str:
    return f"{TENANTS}/{place.tenant.id}"


def add_member(place: Place, scope: str) -> Case:
    body = {"email": f"{uuid4().hex}@example.org"}
    return lambda: place.client.post(MEMBERS, headers=place.headers(scope), json=body)


def member_of(place: Place) -> str:
    return f"{MEMBERS}/{add_account(place.app, member_of={place.tenant.slug: 'member'}).id}"


def mint(place: Place, _: str) -> Case:
    body = {"user": place.admin.email, "name": "made"}
    return lambda: place.post(place.admin, TOKENS, **body)


def bind(place: Place, scope: str) -> Case:
    path = f"{TOKENS}/{add_account(place.app, 'service').token_id}/bind"
    body = {"surfaces": ["shop.*"], "tenants": [place.tenant.slug]}
    return lambda: place.client.post(path, headers=place.headers(scope), json=body)


def revoke(place: Place, scope: str) -> Case:
    token_id: object = place.admin.token_id
    if scope != "all tenants":
        token_id = mint(place, scope)().get_json()["id"]  # type: ignore[attr-defined]  # an answer
    path = f"{TOKENS}/{token_id}/revoke"
    return lambda: place.client.post(path, headers=place.headers(scope))


SCOPES = ("own tenant", "foreign tenant", "all tenants")
ONE_TENANTS = ("own tenant", "foreign tenant")
DECIDERS = ("admin", "owner")

ROUTES: Mapping[str, tuple[Callable[[Place, str], Case], Sequence[str]]] = {
    "admin.rules.create": (create_rule, SCOPES),
    "admin.rules.update": (update_rule, SCOPES),
    "admin.rules.delete": (delete_rule, SCOPES),
    "admin.grants.ask": (ask_for_grant, ("support",)),
    "admin.grants.approve": (decide("approve"), DECIDERS),
    "admin.grants.deny": (decide("deny"), DECIDERS),
    "admin.grants.revoke": (decide("revoke"), (*DECIDERS, "support")),
    "admin.grants.review": (review, DECIDERS),
    "admin.elevations.create": (answer_service, ("service",)),
    "admin.tenants.create": (create_tenant, ("all tenants",)),
    "admin.tenants.update": (change_at("PATCH", tenant_at, name="Renamed"), ("foreign tenant",)),
    "admin.tenants.end": (change_at("DELETE", tenant_at), ("foreign tenant",)),
    "admin.members.add": (add_member, ONE_TENANTS),
    "admin.members.update": (change_at("PATCH", member_of, role="admin"), ONE_TENANTS),
    "admin.members.remove": (change_at("DELETE", member_of), ONE_TENANTS),
    "admin.tokens.create": (mint, ("own tenant",)),
    "admin.tokens.bind": (bind, ("all tenants",)),
    "admin.tokens.revoke": (revoke, SCOPES),
}
"""Each surface that changes something: how, and from where or by whom."""


def test_every_changing_route_is_tried(app: Flask) -> None:
    """Add a new one to ROUTES."""
    views = (app.view_functions[rule.endpoint] for rule in app.url_map.iter_rules())
    declared: Iterator[Surface] = (
        view.__surface__ for view in views if hasattr(view, "__surface__")
    )
    assert {surface.name for surface in declared if surface.changes} == ROUTES.keys()


@pytest.mark.parametrize(
    ("surface", "whence"),
    [(surface, whence) for surface, (_, all_) in ROUTES.items() for whence in all_],
)
def test_change_by_a_route_is_told_to_the_tenants_that_it_concerns(
    app: Flask, worker: None, client: FlaskClient, since: UUID, surface: str, whence: str
) -> None:
    prepare, _ = ROUTES[surface]
    refuse_untold(app, since, prepare(Place(app, client), whence))


def test_incident_is_told_to_the_tenant_that_it_is_at(
    app: Flask, worker: None, client: FlaskClient, since: UUID
) -> None:
    refuse_untold(app, since, access_by_break_glass(Place(app, client), ""))


OF_NOBODY = {"create_user", "users_grant", "users_revoke", "retire_key"}
"""Commands that change who is of the staff, or nobody's member yet, or which keys sign."""


@pytest.mark.parametrize("prepare", CHANGES, ids=lambda prepare: prepare.__qualname__)
def test_change_by_a_command_is_told_to_the_tenants_that_it_concerns(
    app: Flask, run: Run, tmp_path: Path, since: UUID, prepare: Callable[[Setting], Any]
) -> None:
    """That CHANGES are all commands that change something is tested beside them."""
    tenant = add_tenant(app)
    somebody = add_account(app, member_of={tenant.slug: "member"})
    arguments = prepare(Setting(app, run, tenant, somebody, tmp_path)).arguments

    def change() -> None:
        result = run(*arguments)
        assert result.exit_code == 0, result.output

    refuse_untold(app, since, change, concerns=prepare.__qualname__ not in OF_NOBODY)


STATEMENTS: Mapping[str, str] = {
    **{how: statement for how, (statement, events) in BY_SQL.items() if events},
    "mint": "insert into api_tokens (id, principal_id, name, token_hash)"
    " values (:new, :user, 'x', sha256(cast(:user as text)::bytea))",
    "new tenant": "insert into tenants (id, slug, name) values (:new, :word, 'New')",
    "removal of a tenant": "delete from tenants where id = :other",
    "new user": "insert into principals (id, email) values (:new, :word)",
    "removal of a user": "delete from principals where id = :nobody",
    "moved token": "update api_tokens set principal_id = :staff where id = :token",
}
OF_NOBODY_BY_SQL = {
    *("grant", "change of a role", "loss of a role", "new user", "removal of a user"),
    "removal of a tenant",
}
"""A tenant that is not there any more has no list."""


def test_every_change_of_identity_by_sql_is_tried(app: Flask) -> None:
    """Add those of a new table, whose changes a trigger records, to STATEMENTS."""
    with owner_connection(app) as owner:
        recorded = text("select tgrelid::regclass::text from pg_trigger where tgname = 'recorded'")
        tables = set(owner.scalars(recorded))
    tables.remove("signing_keys")  # no tenant's, and told to nobody
    assert tables == {"tenants", "principals", "platform_roles", "memberships", "api_tokens"}
    verbs = re.compile(r"(insert into|update|delete from) (\w+)")
    tried = {match.groups() for s in STATEMENTS.values() if (match := verbs.match(s))}
    ways = ("insert into", "update", "delete from")
    assert tried == {(way, table) for way in ways for table in tables}


@pytest.mark.parametrize("how", STATEMENTS)
def test_change_by_sql_is_told_to_the_tenants_that_it_concerns(
    app: Flask, since: UUID, how: str
) -> None:
    somebody, nobody = Somebody(app), add_user(app)
    statement = STATEMENTS[how]
    names = {"new": uuid7(), "word": f"w-{uuid4().hex}", "nobody": nobody}

    def change() -> None:
        with owner_connection(app) as owner:
            lift(owner)
            owner.execute(text(statement), somebody.names | names)
            force(owner)

    refuse_untold(app, since, change, concerns=how not in OF_NOBODY_BY_SQL)


def add_user(app: Flask) -> UUID:
    """Somebody without a token, a role or a tenant."""
    user_id = uuid7()
    with owner_connection(app) as owner:
        made = text("insert into principals (id, email) values (:id, :email)")
        owner.execute(made, {"id": user_id, "email": f"{user_id.hex}@example.org"})
    return user_id
