"""Authentication: credentials name their principal; revocation, expiry and roles count at once."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import requests
from flask import Flask, Request
from sqlalchemy import NullPool, create_engine, text

from tests.audit.ledgers import owner_connection
from tests.audit.receipts import committed, receipt
from tests.clocks import INSTANT, clock_at
from tests.factories import INCIDENT, Account, add_account, add_tenant
from tests.processes import Web
from webapp.db.scopes import DirectoryScope
from webapp.directory import service
from webapp.extensions import db
from webapp.http.errors import Unauthenticated
from webapp.identity import authentication, lookup, tokens
from webapp.identity.principal import Principal
from webapp.identity.tokens import Expect

OWN_RULES = "/admin/api/rules"
CERTIFICATE_HEADER = "X-Client-Certificate"
BOTH_WORKERS = range(8)


def who(app: Flask, token: str) -> Principal:
    with app.app_context():
        return tokens.verify(token)


def change(app: Flask, what: Callable[[], object], *, commit: bool = True) -> None:
    with app.app_context(), db.scoped(DirectoryScope()):
        what()
        if commit:
            db.session.commit()
        else:
            db.session.rollback()


def mint(app: Flask, account: Account, expires_at: datetime) -> str:
    with app.app_context(), db.scoped(DirectoryScope()):
        made = service.create_token(account.email, "test", expires_at)
        db.session.commit()
        return made.secret


def assert_refused(app: Flask, token: str, why: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        who(app, token)
    assert why in str(refused.value)


def test_token_authenticates_its_principal(app: Flask) -> None:
    tenant = add_tenant(app)
    staff = add_account(app, "engineer", "auditor")
    assert who(app, staff.token).roles == ("auditor", "engineer")
    account = add_account(app, member_of={tenant.slug: "admin"})
    principal = who(app, account.token)
    assert principal == who(app, account.token)
    assert (principal.id, principal.email) == (account.id, account.email)
    assert principal.token_id == account.token_id
    assert principal.roles == (f"{tenant.slug}:admin",)
    assert [m.tenant_id for m in principal.memberships] == [tenant.id]


def test_revoked_token_is_refused_from_the_next_request(app: Flask, other_app: Flask) -> None:
    tenant = add_tenant(app)
    account = add_account(app, member_of={tenant.slug: "member"})
    clients = [app.test_client(), other_app.test_client()]
    for client in clients:
        assert client.get(OWN_RULES, headers=account.headers()).status_code == 200
    change(app, lambda: service.revoke_token(account.token_id))
    for client in clients:
        answer = client.get(OWN_RULES, headers=account.headers())
        assert answer.status_code == 401
        assert answer.json["code"] == "unauthenticated"  # type: ignore[index]  # it is JSON


@pytest.mark.slow(seconds=2)
def test_revoked_token_is_refused_by_running_processes(app: Flask, web: Web) -> None:
    tenant = add_tenant(app)
    account = add_account(app, member_of={tenant.slug: "member"})

    def statuses() -> set[int]:
        return {
            requests.get(web.url + OWN_RULES, headers=account.headers(), timeout=30).status_code
            for _ in BOTH_WORKERS
        }

    assert statuses() == {200}
    change(app, lambda: service.revoke_token(account.token_id))
    assert statuses() == {401}


def test_token_stays_good_when_its_revocation_is_rolled_back(app: Flask, other_app: Flask) -> None:
    account = add_account(app)
    who(other_app, account.token)
    change(app, lambda: service.revoke_token(account.token_id), commit=False)
    assert who(app, account.token) == who(other_app, account.token)


def test_revoking_one_token_leaves_the_others_good(app: Flask) -> None:
    account = add_account(app, "support")
    second = mint(app, account, datetime.now(UTC) + timedelta(days=1))
    assert who(app, second).id == who(app, account.token).id
    change(app, lambda: service.revoke_token(account.token_id))
    assert_refused(app, account.token, "revoked")
    assert who(app, second).email == account.email


def test_changed_roles_count_from_the_next_request(app: Flask, other_app: Flask) -> None:
    tenant = add_tenant(app)
    account = add_account(app)
    assert who(other_app, account.token).roles == ()
    change(app, lambda: service.set_membership(account.email, tenant.slug, "member"))
    assert who(other_app, account.token).roles == (f"{tenant.slug}:member",)
    change(app, lambda: service.set_membership(account.email, tenant.slug, "admin"))
    assert who(other_app, account.token).roles == (f"{tenant.slug}:admin",)
    change(app, lambda: service.end_membership(account.email, tenant.slug))
    change(app, lambda: service.set_platform_role(account.email, "support", held=True))
    change(app, lambda: service.set_platform_role(account.email, "owner", held=True))
    assert who(other_app, account.token).roles == ("owner", "support")
    change(app, lambda: service.set_platform_role(account.email, "support", held=False))
    assert who(other_app, account.token).roles == ("owner",)


def test_remembered_token_is_refused_once_it_has_expired(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = add_account(app)
    token = mint(app, account, datetime.now(UTC) + timedelta(hours=1))
    assert who(app, token).email == account.email

    class TwoHoursOn(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "TwoHoursOn":
            return super().now(UTC) + timedelta(hours=2)

    monkeypatch.setattr(tokens, "datetime", TwoHoursOn)
    assert_refused(app, token, "expired")
    assert who(app, account.token).email == account.email


@pytest.mark.parametrize("remembered", [False, True], ids=["read anew", "remembered"])
def test_token_is_refused_from_its_expiry_on_and_good_until_just_before(
    app: Flask, remembered: bool
) -> None:
    account, expires_at = add_account(app), datetime.now(UTC) + timedelta(hours=1)
    token = mint(app, account, expires_at)
    if remembered:
        assert who(app, token).email == account.email
    with clock_at(expires_at, tokens):
        assert_refused(app, token, "expired")
    with clock_at(expires_at - INSTANT, tokens):
        assert who(app, token).email == account.email


def test_expired_token_is_refused_each_time(app: Flask) -> None:
    account = add_account(app)
    token = mint(app, account, datetime.now(UTC) + timedelta(days=1))
    with owner_connection(app) as owner:  # nobody else may change when a token ends
        ended = "update api_tokens set expires_at = now() where principal_id = :id"
        owner.execute(text(ended), {"id": account.id})
    for _ in range(2):
        assert_refused(app, token, "expired")


def test_unknown_tokens_and_slugs_are_not_remembered(app: Flask) -> None:
    remembered = app.extensions["identity"]
    before = len(remembered._entries)
    for number in range(20):
        assert_refused(app, f"slt_{number}", "unknown")
    with app.app_context():
        assert lookup.find_tenant_id("no-such-tenant") is None
    assert len(remembered._entries) == before


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer slt_",
        "Bearer slt_" + "x" * 43,
        "Bearer slt_\xe9\xff",
        "Basic c2x0Xzpw",
        "slt_x",
    ],
)
def test_request_without_good_credentials_is_refused(app: Flask, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = app.test_client().get(OWN_RULES, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.fixture
def certificates(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second kind of credential: a proxy names the principal of a client's certificate."""

    def authenticate_certificate(request: Request, expect: Expect) -> Principal | None:
        email = request.headers.get(CERTIFICATE_HEADER)
        if email is None:
            return None
        principal = lookup.find_principal(email, mfa=True)
        if principal is None:
            raise Unauthenticated("Nobody has this certificate.")
        return principal

    kinds = (*authentication.AUTHENTICATORS, authenticate_certificate)
    monkeypatch.setattr(authentication, "AUTHENTICATORS", kinds)


@pytest.mark.usefixtures("certificates", "worker")
def test_principal_with_another_credential_is_recorded_without_a_token(app: Flask) -> None:
    tenant, account = add_tenant(app), add_account(app, "engineer")
    by_token = account.headers(f"tenant:{tenant.slug}", INCIDENT)
    by_certificate = {**by_token, CERTIFICATE_HEADER: account.email}
    del by_certificate["Authorization"]
    for headers, token_id in ((by_token, str(account.token_id)), (by_certificate, None)):
        answer = app.test_client().get(OWN_RULES, headers=headers)
        [event] = committed(app, *receipt(answer))
        assert event["actor"]["email"] == account.email
        assert event["actor"]["token_id"] == token_id


@pytest.mark.usefixtures("certificates")
def test_bad_credential_of_another_kind_is_refused(app: Flask) -> None:
    headers = {CERTIFICATE_HEADER: "nobody@example.org"}
    answer = app.test_client().get(OWN_RULES, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_only_the_hash_of_a_token_is_stored(app: Flask) -> None:
    account = add_account(app)
    who(app, account.token)
    owner_url = app.extensions["settings"].database_owner_url
    engine = create_engine(owner_url, poolclass=NullPool)
    statement = text("select token_hash, api_tokens::text from api_tokens where id = :id")
    with engine.connect() as connection:
        stored, row = connection.execute(statement, {"id": account.token_id}).one()
    assert bytes(stored) == hashlib.sha256(account.token.encode()).digest()
    assert account.token not in row
    assert account.token.removeprefix(tokens.TOKEN_PREFIX) not in row


def test_tokens_are_long_and_unique(app: Flask) -> None:
    account = add_account(app)
    in_a_day = datetime.now(UTC) + timedelta(days=1)
    secrets = {mint(app, account, in_a_day) for _ in range(20)}
    assert len(secrets) == 20
    assert all(len(token) >= len(tokens.TOKEN_PREFIX) + 43 for token in secrets)
