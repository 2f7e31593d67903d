"""How many refused attempts of one actor are recorded: beyond the limit the answer is 429."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from tests.audit.receipts import committed, receipt
from tests.decisions.test_break_glass import BREAK_GLASS, let_break_glass
from tests.elevations.calls import ask as ask_elevation
from tests.elevations.calls import question
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.grants.calls import ask as ask_grant
from tests.grants.calls import request_body, require_approval
from tests.http.test_rate_limits import limited
from tests.rules.calls import PATH, add_rule, draft
from webapp.db.scopes import DirectoryScope, TenantScope
from webapp.directory import service
from webapp.directory.service import NewBindings
from webapp.extensions import db
from webapp.ledger import search

GRANTS = "/admin/api/grants"
LIMIT = 2
NOTHING = NewBindings((), (), break_glass=False, reports_mfa=False)


@pytest.fixture(scope="module")
def limiting(app: Flask) -> Iterator[Flask]:
    with limited(app, rate_limit_denied=LIMIT) as made:
        yield made


@pytest.fixture
def client(limiting: Flask) -> FlaskClient:
    return limiting.test_client()


@pytest.fixture
def stranger(app: Flask) -> Account:
    return add_account(app, member_of={add_tenant(app).slug: "member"})


def read(
    client: FlaskClient, who: Account, tenant: MadeTenant, reason: str = INCIDENT
) -> TestResponse:
    return client.get(PATH, headers=who.headers(f"tenant:{tenant.slug}", reason))


def counted() -> float:
    return REGISTRY.get_sample_value("sightline_denied_limited_total") or 0


def is_limited(answer: TestResponse) -> bool:
    """Whether it is a whole refusal by the limit, without a record."""
    if answer.status_code != 429:
        return False
    assert answer.get_json()["code"] == "rate_limited"
    assert 0 < int(answer.headers["Retry-After"]) <= 3600 / LIMIT
    assert answer.headers["RateLimit-Policy"] == f'"denied";q={LIMIT};w=3600'
    assert "Sightline-Audit" not in answer.headers
    return True


def test_attempts_beyond_the_limit_are_counted_and_not_recorded(
    app: Flask, worker: None, client: FlaskClient, tenant: MadeTenant, stranger: Account
) -> None:
    before = counted()
    with capture_logs() as logs:
        answers = [read(client, stranger, tenant) for _ in range(LIMIT + 3)]
    assert [answer.status_code for answer in answers] == [*[403] * LIMIT, 429, 429, 429]
    assert all(is_limited(answer) for answer in answers[LIMIT:])
    assert counted() == before + 3
    lines = [line for line in logs if line["event"] == "denied_limited"]
    assert [(line["actor"], line["surface"]) for line in lines] == [
        (str(stranger.id), "admin.rules.list")
    ] * 3
    recorded = committed(app, *(i for answer in answers for i in receipt(answer)))
    # An access that is recorded later: whatever was recorded before it is there by then.
    last = read(client, add_account(app, "engineer"), tenant)
    committed(app, *receipt(last))
    with app.app_context(), db.scoped(TenantScope(tenant.id)):
        query = search.AuditQuery(actor=stranger.email, grouped=False)
        found = search.list_events(db.session, query).items
    assert {str(item.id) for item in found} == {event["id"] for event in recorded}
    assert len(found) == LIMIT


def test_answer_tells_how_many_attempts_are_left(
    client: FlaskClient, tenant: MadeTenant, stranger: Account
) -> None:
    assert read(client, stranger, tenant).headers["RateLimit"] == '"denied";r=1;t=1800'


def test_limit_of_one_person_is_nobody_elses(
    app: Flask, client: FlaskClient, tenant: MadeTenant, stranger: Account
) -> None:
    while not is_limited(read(client, stranger, tenant)):
        pass
    other = add_account(app, member_of={add_tenant(app).slug: "member"})
    assert read(client, other, tenant).status_code == 403


def test_person_beyond_the_limit_may_still_do_what_is_allowed(
    app: Flask, client: FlaskClient, tenant: MadeTenant, owner: Account, support: Account
) -> None:
    let_break_glass(client, owner, support)
    admin = add_account(app, member_of={tenant.slug: "admin"})
    only = {"roles": [], "users": [support.email]}
    require_approval(client, admin.headers(), subjects=only, surfaces=["admin.rules.*"])
    while not is_limited(answer := read(client, support, tenant)):
        assert answer.get_json()["code"] == "approval_required"
    assert read(client, support, add_tenant(app)).status_code == 200
    broken = read(client, support, tenant, BREAK_GLASS)
    assert broken.status_code == 200
    assert len(receipt(broken)) == 2  # the access, and the incident that it has opened
    asked = client.post(GRANTS, headers=support.headers(), json=request_body([tenant.slug]))
    assert asked.status_code == 201
    assert is_limited(read(client, support, tenant))


Attempt = Callable[[], TestResponse]


def denied_by_a_rule(app: Flask, client: FlaskClient, tenant: MadeTenant) -> Attempt:
    deny(app, client, tenant)
    engineer = add_account(app, "engineer")
    return lambda: read(client, engineer, tenant)


def denied_to_ask_for(app: Flask, client: FlaskClient, tenant: MadeTenant) -> Attempt:
    deny(app, client, tenant)
    engineer = add_account(app, "engineer")
    return lambda: ask_grant(client, engineer, [tenant.slug])


def deny(app: Flask, client: FlaskClient, tenant: MadeTenant) -> None:
    admin = add_account(app, member_of={tenant.slug: "admin"})
    add_rule(client, admin.headers(), effect="deny", surfaces=["admin.rules.list"])


def forbidden_in_own_tenant(app: Flask, client: FlaskClient, tenant: MadeTenant) -> Attempt:
    member = add_account(app, member_of={tenant.slug: "member"})
    return lambda: client.post(PATH, headers=member.headers(), json=draft())


def own_request(app: Flask, client: FlaskClient, tenant: MadeTenant) -> Attempt:
    admin = add_account(app, member_of={tenant.slug: "admin"})
    require_approval(client, admin.headers())
    engineer = add_account(app, "engineer")
    (grant,) = ask_grant(client, engineer, [tenant.slug]).get_json()["items"]
    return lambda: client.post(f"{GRANTS}/{grant['id']}/approve", headers=engineer.headers())


def unknown_grant(app: Flask, client: FlaskClient, tenant: MadeTenant) -> Attempt:
    member = add_account(app, member_of={tenant.slug: "member"})
    return lambda: client.post(f"{GRANTS}/{uuid4()}/approve", headers=member.headers())


def question_out_of_bounds(app: Flask, client: FlaskClient, tenant: MadeTenant) -> Attempt:
    asking = add_account(app, "service", bindings=NOTHING)
    return lambda: ask_elevation(client, asking, question(f"{uuid4().hex}@example.org", tenant))


def denied_to_a_service(app: Flask, client: FlaskClient, tenant: MadeTenant) -> Attempt:
    """Whoever asks for the person, whom Sightline does not know."""
    body = question(f"{uuid4().hex}@example.org", tenant)
    return lambda: ask_elevation(client, add_account(app, "service"), body)


@pytest.mark.parametrize(
    "kind",
    [
        denied_by_a_rule,
        denied_to_ask_for,
        forbidden_in_own_tenant,
        own_request,
        unknown_grant,
        question_out_of_bounds,
        denied_to_a_service,
    ],
)
def test_each_kind_of_refused_attempt_counts(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    kind: Callable[[Flask, FlaskClient, MadeTenant], Attempt],
) -> None:
    attempt = kind(app, client, tenant)
    for _ in range(LIMIT):
        assert len(receipt(attempt())) == 1
    assert is_limited(attempt())


def test_tokens_of_a_service_count_apart(
    app: Flask, client: FlaskClient, tenant: MadeTenant
) -> None:
    first = add_account(app, "service", bindings=NOTHING)
    with app.app_context(), db.scoped(DirectoryScope()):
        made = service.create_token(first.email, "another")
        db.session.commit()
    second = Account(first.id, first.email, made.id, made.secret)
    body = question("somebody@example.org", tenant)
    while not is_limited(ask_elevation(client, first, body)):
        pass
    assert ask_elevation(client, second, body).status_code == 403


def test_service_may_ask_about_others_when_one_person_is_beyond_the_limit(
    app: Flask, client: FlaskClient, tenant: MadeTenant
) -> None:
    asking, email = add_account(app, "service"), f"{uuid4().hex}@example.org"
    while not is_limited(answer := ask_elevation(client, asking, question(email, tenant))):
        assert "RateLimit" not in answer.headers or "denied" not in answer.headers["RateLimit"]
    other = ask_elevation(client, asking, question(f"{uuid4().hex}@example.org", tenant))
    assert other.get_json()["decision"] == "denied"
