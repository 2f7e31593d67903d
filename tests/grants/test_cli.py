"""`flask grants`, as an operator runs it."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from tests.audit.receipts import second_connection
from tests.factories import Account, MadeTenant
from tests.grants.calls import access, add_request, perform
from tests.grants.test_expiry import expiries, let_end
from tests.operators import OPERATOR, WHY
from webapp.audit.append import OWN_JOURNAL
from webapp.audit.models import AuditEventRow

Run = Callable[..., Result]


@pytest.fixture
def run(app: Flask) -> Run:
    def command(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(args=["grants", *arguments])

    return command


def succeed(run: Run, *arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return orjson.loads(result.stdout)


def test_list_shows_grants_with_filters(
    run: Run,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    request_: dict[str, Any],
) -> None:
    denied = perform(client, admin, "deny", add_request(client, support, tenant))
    assert succeed(run, "list", "--tenant", tenant.slug, *WHY)["items"] == [denied, request_]
    chosen = succeed(run, "list", "--tenant", tenant.slug, "--state", "requested", *WHY)
    assert chosen["items"] == [request_]
    lines = run("list", "--tenant", tenant.slug, *WHY).stdout.splitlines()
    (line,) = [line for line in lines if request_["id"] in line]
    assert [cell.strip() for cell in line.strip("│").split("│")][1:-1] == [
        "approval",
        support.email,
        tenant.slug,
        "admin.rules.list",
        "incident",
        "INC-1",
        "requested",
    ]


def test_list_refuses_an_unknown_tenant_or_state(run: Run, tenant: MadeTenant) -> None:
    assert run("list", "--tenant", tenant.slug, *WHY).stdout == "Nothing found.\n"
    for option, value, code, says in (
        ("--tenant", "no-such-tenant", 1, "There is no tenant no-such-tenant."),
        ("--state", "over", 2, "'over' is not one of"),
    ):
        result = run("list", option, value, *WHY)
        assert (result.exit_code, result.stdout) == (code, "")
        assert says in result.stderr


def test_revoked_grant_ends_and_is_recorded(
    app: Flask,
    run: Run,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    request_: dict[str, Any],
) -> None:
    perform(client, admin, "approve", request_)
    assert access(client, support, tenant).status_code == 200
    revoked = run("revoke", request_["id"])
    assert revoked.stdout == f"The grant {request_['id']} of {support.email} is revoked.\n"
    assert access(client, support, tenant).status_code == 403
    [shown] = succeed(run, "list", "--tenant", tenant.slug, *WHY)["items"]
    assert (shown["state"], shown["closed_by"]) == ("revoked", OPERATOR)
    with second_connection(app) as session:
        own = select(AuditEventRow.event).where(
            AuditEventRow.origin_journal == OWN_JOURNAL,
            AuditEventRow.tenant == tenant.slug,
            AuditEventRow.surface == "grants.revoke",
        )
        (event,) = session.scalars(own)
    assert (event["surface"], event["actor"]["email"]) == ("grants.revoke", OPERATOR)
    assert event["request"]["method"] == "CLI"
    assert event["decision"]["grant_ids"] == [request_["id"]]


def test_revoking_a_closed_or_unknown_grant_fails_in_one_line(
    run: Run, request_: dict[str, Any]
) -> None:
    succeed(run, "revoke", request_["id"])
    for grant_id, says in (
        (request_["id"], "The grant is revoked already."),
        (str(uuid4()), "There is no such grant."),
    ):
        result = run("revoke", grant_id)
        assert (result.exit_code, result.stdout) == (1, "")
        assert says in result.stderr
    assert run("revoke", "x").exit_code == 2


def test_expire_ends_grants_whose_time_is_over(
    app: Flask, run: Run, request_: dict[str, Any]
) -> None:
    let_end(app, request_)
    assert succeed(run, "expire")["expired"] >= 1
    (event,) = expiries(app, request_)
    assert (event["actor"]["email"], event["request"]["method"]) == ("sightline", "CLI")
    assert UUID(event["request"]["id"])
    assert run("expire").stdout == "0 grants have expired.\n"
