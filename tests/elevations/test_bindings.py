"""What a service's token is bound to: everything else that the service asks is refused."""

from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.audit.receipts import committed, receipt
from tests.conftest import Run
from tests.directory.test_cli import refuse, succeed
from tests.elevations.calls import ask, question
from tests.elevations.conftest import MakeRule
from tests.factories import EVERYTHING, Account, MadeTenant, add_account, add_tenant
from tests.rules.calls import problem
from webapp.directory.service import NewBindings

NOTHING = NewBindings((), (), break_glass=False, reports_mfa=False)
SURFACES = ("shop.invoices.*", "shop.orders.read")


def bound(
    surfaces: tuple[str, ...] = ("*",),
    tenants: tuple[str, ...] | None = None,
    *,
    break_glass: bool = False,
    reports_mfa: bool = False,
) -> NewBindings:
    return NewBindings(surfaces, tenants, break_glass=break_glass, reports_mfa=reports_mfa)


def add_service(app: Flask, bindings: NewBindings) -> Account:
    return add_account(app, "service", bindings=bindings)


def refused(client: FlaskClient, service: Account, body: dict[str, Any]) -> list[str]:
    """The fields for which a question is refused; none if it is answered."""
    response = ask(client, service, body)
    if response.status_code == 200:
        return []
    assert (response.status_code, response.get_json()["code"]) == (403, "not_bound")
    return sorted(response.get_json()["errors"])


def test_service_without_bindings_may_ask_nothing(
    app: Flask, client: FlaskClient, tenant: MadeTenant, engineer: Account
) -> None:
    service = add_service(app, NOTHING)
    assert refused(client, service, question(engineer.email, tenant)) == ["surface", "tenant"]
    assert refused(client, service, question(engineer.email)) == ["surface", "tenant"]


def test_service_asks_about_its_surfaces_only(
    app: Flask, client: FlaskClient, tenant: MadeTenant, engineer: Account
) -> None:
    service = add_service(app, bound(SURFACES))
    for surface in ("shop.invoices.list", "shop.invoices.a.b", "shop.orders.read"):
        assert refused(client, service, question(engineer.email, tenant, surface=surface)) == []
    for surface in ("shop.invoices", "shop.invoicesx.list", "shop.orders", "shop.orders.read.x"):
        body = question(engineer.email, tenant, surface=surface)
        assert refused(client, service, body) == ["surface"]


def test_own_surfaces_are_open_only_to_a_service_that_is_bound_to_them(
    app: Flask, client: FlaskClient, tenant: MadeTenant, engineer: Account
) -> None:
    body = question(engineer.email, tenant, surface="admin.rules.list")
    assert refused(client, add_service(app, bound(("*",))), body) == ["surface"]
    assert refused(client, add_service(app, bound(("shop.*", "admin.rules.*"))), body) == []
    administration = question(engineer.email, tenant, surface="administration.list")
    assert refused(client, add_service(app, bound(("*",))), administration) == []


def test_service_asks_about_its_tenants_only(
    app: Flask, client: FlaskClient, tenant: MadeTenant, engineer: Account
) -> None:
    service, other = add_service(app, bound(tenants=(tenant.slug,))), add_tenant(app)
    assert refused(client, service, question(engineer.email, tenant)) == []
    nowhere = MadeTenant(uuid4(), "nobodys")
    for beyond in (other, nowhere, None):  # it does not learn whether a tenant exists
        assert refused(client, service, question(engineer.email, beyond)) == ["tenant"]


def test_service_asks_for_break_glass_only_where_it_may(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    engineer: Account,
    surface: str,
    make_rule: MakeRule,
) -> None:
    """An incident in a person's name would keep that person from a real one."""
    make_rule("allow", subjects={"roles": ["engineer"]}, reasons=["break_glass"])
    body = question(engineer.email, tenant, "break_glass", surface=surface)
    assert refused(client, add_service(app, bound()), body) == ["reason.code"]
    mine = ask(client, add_service(app, bound(break_glass=True)), body).get_json()
    assert mine["decision"] == "allowed", mine["explanation"]


def test_service_reports_a_second_factor_only_where_it_may(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    engineer: Account,
) -> None:
    body, service = question(engineer.email, tenant), add_service(app, bound())
    for said in ({}, {"mfa": False}):
        body["principal"] = {"email": engineer.email, **said}
        assert refused(client, service, body) == []
    body["principal"]["mfa"] = True
    assert refused(client, service, body) == ["principal.mfa"]
    assert refused(client, add_service(app, bound(reports_mfa=True)), body) == []


def test_stored_answer_is_not_told_to_a_token_that_is_no_longer_bound(
    app: Flask, run: Run, client: FlaskClient, tenant: MadeTenant, engineer: Account
) -> None:
    service, key, body = add_service(app, EVERYTHING), uuid4().hex, question(engineer.email, tenant)
    assert ask(client, service, body, key).status_code == 200
    succeed(run, "tokens", "bind", str(service.token_id), "--surface", "shop.*", "--all-tenants")
    assert problem(ask(client, service, body, key)) == (403, "not_bound", ["surface"])


def test_refused_question_is_recorded_as_the_services_attempt_and_in_no_tenants_list(
    app: Flask, worker: None, client: FlaskClient, tenant: MadeTenant, engineer: Account
) -> None:
    service = add_service(app, NOTHING)
    response = ask(client, service, question(engineer.email, tenant))
    (event,) = committed(app, *receipt(response))
    assert (event["actor"]["email"], event["surface"]) == (service.email, "admin.elevations.create")
    assert (event["outcome"], event["http_status"]) == ("denied", 403)
    assert (event["scope"]["kind"], event["scope"]["tenant"]) == ("global", None)


def test_commands_bind_tokens_and_show_it(app: Flask, run: Run, tenant: MadeTenant) -> None:
    email, other = f"{uuid4().hex}@example.org", add_tenant(app)
    succeed(run, "users", "create", email, "--role", "service")

    def shown() -> list[Any]:
        [token] = succeed(run, "tokens", "list", "--user", email)["items"]
        return [token[name] for name in ("surfaces", "tenants", "break_glass", "reports_mfa")]

    options = ("--surface", "shop.*", "--surface", "admin.rules.list", "--tenant", tenant.slug)
    made = succeed(run, "tokens", "create", email, "--name", "shop", *options, "--reports-mfa")
    assert shown() == [["shop.*", "admin.rules.list"], [tenant.slug], False, True]
    succeed(run, "tokens", "bind", made["id"], "--surface", "*", "--all-tenants", "--break-glass")
    assert shown() == [["*"], ["*"], True, False]
    succeed(run, "tokens", "bind", made["id"], "--tenant", other.slug, "--tenant", tenant.slug)
    assert shown() == [[], sorted([other.slug, tenant.slug]), False, False]
    assert tenant.slug in run("tokens", "list", "--user", email).stdout
    succeed(run, "tokens", "bind", made["id"])
    assert shown() == [[], [], False, False]


def test_token_is_bound_only_to_what_there_is(run: Run, tenant: MadeTenant, app: Flask) -> None:
    service, person = add_service(app, NOTHING), add_account(app, "support")
    bind = ("tokens", "bind", str(service.token_id))
    refuse(run, *bind, "--surface", "shop.*.list", says="The surface must be a surface, a prefix")
    refuse(run, *bind, "--tenant", "no-such", says="There is no tenant no-such.")
    many = [word for n in range(21) for word in ("--surface", f"shop.s{n}")]
    refuse(run, *bind, *many, says="The surface can be given 20 times at most")
    both = ("--all-tenants", "--tenant", tenant.slug)
    refuse(run, *bind, *both, says="Give --tenant or --all-tenants, not both.", code=2)
    refuse(run, "tokens", "bind", str(uuid4()), says="There is no such token")
    refuse(run, "tokens", "bind", str(person.token_id), says="does not have the role service")
    refuse(
        run, *("tokens", "create", person.email, "--name", "x", "--surface", "*"), says="service"
    )


@pytest.mark.parametrize("reason", ["incident", "break_glass"])
def test_person_asks_nothing_whatever_their_token_is_bound_to(
    app: Flask, client: FlaskClient, tenant: MadeTenant, engineer: Account, reason: str
) -> None:
    response = ask(client, engineer, question(engineer.email, tenant, reason))
    assert (response.status_code, response.get_json()["code"]) == (403, "forbidden")
