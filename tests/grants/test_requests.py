"""Requests for grants: what may be requested, and that one refusal refuses all."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.grants.calls import PATH, SURFACE, ask, problem, require_approval
from tests.rules.calls import add_rule


def requests_of(client: FlaskClient, who: Account) -> int:
    own = client.get(PATH, headers=who.headers(), query_string={"holder": who.email})
    total: int = own.get_json()["total"]
    return total


def errors(response: Any) -> dict[str, list[str]]:
    assert problem(response) == (422, "invalid")
    found: dict[str, list[str]] = response.get_json()["errors"]
    return found


def test_each_requested_tenant_gets_its_own_request_and_record(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    rule: dict[str, Any],
    support: Account,
) -> None:
    other = add_tenant(app)
    others = require_approval(client, add_account(app, member_of={other.slug: "admin"}).headers())
    response = ask(client, support, [tenant.slug, other.slug, tenant.slug])
    assert response.status_code == 201
    grants = response.get_json()["items"]
    summary = [(grant["tenant"], grant["rules"], grant["surfaces"]) for grant in grants]
    assert summary == [
        (tenant.slug, [rule["id"]], [SURFACE]),
        (other.slug, [others["id"]], [SURFACE]),
    ]
    events = committed(app, *receipt(response))
    assert [event["scope"]["tenant"] for event in events] == [tenant.slug, other.slug]
    assert [event["decision"]["grant_ids"] for event in events] == [[g["id"]] for g in grants]
    for event in events:
        assert (event["kind"], event["surface"]) == ("change", "admin.grants.ask")
        assert (event["outcome"], event["rows"], event["repeats"]) == ("served", 1, 1)


def test_request_that_a_rule_denies_is_refused_and_recorded(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    rule: dict[str, Any],
    support: Account,
) -> None:
    assert rule
    closed = add_tenant(app)
    closer = add_account(app, member_of={closed.slug: "admin"})
    denying = add_rule(client, closer.headers(), surfaces=["admin.rules.read"])
    response = ask(
        client, support, [tenant.slug, closed.slug], surfaces=[SURFACE, "admin.rules.read"]
    )
    assert problem(response) == (403, "elevation_denied")
    assert response.get_json()["rules"] == [denying["id"]]
    (event,) = committed(app, *receipt(response))
    assert (event["scope"]["tenant"], event["outcome"]) == (closed.slug, "denied")
    assert event["decision"]["rule_ids"] == [denying["id"]]
    assert requests_of(client, support) == 0


def test_request_that_needs_no_approval_is_refused(
    app: Flask, client: FlaskClient, tenant: MadeTenant, rule: dict[str, Any], support: Account
) -> None:
    assert rule
    free = add_tenant(app)
    response = ask(client, support, [tenant.slug, free.slug])
    assert problem(response) == (409, "conflict")
    assert response.get_json()["detail"] == f"No approval is needed for {free.slug}."
    # An access to all tenants excludes tenants that require an approval: it needs none as a whole.
    assert problem(ask(client, support, None)) == (409, "conflict")
    assert requests_of(client, support) == 0


def test_request_for_an_unknown_tenant_is_refused_by_name(
    client: FlaskClient, tenant: MadeTenant, rule: dict[str, Any], support: Account
) -> None:
    assert rule
    slugs = [tenant.slug, tenant.slug, "nobodys"]
    assert list(errors(ask(client, support, slugs))) == ["tenants.2"]
    assert requests_of(client, support) == 0


def test_request_for_longer_than_the_rules_allow_is_refused(
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    rule: dict[str, Any],
    support: Account,
) -> None:
    assert rule["max_minutes"] == 60
    require_approval(client, admin.headers(), "shorter", max_minutes=45)
    assert errors(ask(client, support, [tenant.slug], minutes=46)) == {
        "minutes": ["must be 45 at most"]
    }
    assert ask(client, support, [tenant.slug], minutes=45).status_code == 201


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"reason": {"code": "break_glass"}}, "reason.code"),
        ({"reason": {"code": "because"}}, "reason.code"),
        ({"reason": {"code": "incident", "ticket": "a\nb"}}, "reason.ticket"),
        ({"surfaces": ["admin.rules.*"]}, "surfaces.0"),
        ({"surfaces": []}, "surfaces"),
        ({"surfaces": ["a"] * 21}, "surfaces"),
        ({"tenants": []}, "tenants"),
        ({"minutes": 0}, "minutes"),
        ({"minutes": 7 * 24 * 60 + 1}, "minutes"),
        ({"state": "approved"}, "state"),
    ],
)
def test_invalid_request_is_refused_by_field(
    client: FlaskClient, support: Account, changes: dict[str, Any], field: str
) -> None:
    body = {"tenants": ["a"], **changes}
    assert list(errors(ask(client, support, body.pop("tenants"), **body))) == [field]


def test_request_by_anybody_but_staff_is_refused(
    app: Flask, client: FlaskClient, tenant: MadeTenant
) -> None:
    for who in (
        add_account(app, member_of={tenant.slug: "admin"}),
        add_account(app, "service"),
        add_account(app),
    ):
        assert problem(ask(client, who, [tenant.slug])) == (403, "forbidden")


def test_request_is_evaluated_with_the_requesters_address_and_second_factor(
    app: Flask, client: FlaskClient, owner: Account, tenant: MadeTenant, support: Account
) -> None:
    """Three rules cover another network, this network, and people without a second factor."""
    users = {"users": [support.email]}
    everywhere = owner.headers("global", INCIDENT)
    require_approval(
        client, everywhere, f"{support.email} there", subjects=users, networks=["10.0.0.0/8"]
    )
    assert problem(ask(client, support, [tenant.slug])) == (409, "conflict")
    from_here = require_approval(
        client, everywhere, f"{support.email} here", subjects=users, networks=["127.0.0.0/8"]
    )
    response = ask(client, support, [tenant.slug])
    assert response.status_code == 201
    assert response.get_json()["items"][0]["rules"] == [from_here["id"]]
    with_factor = require_approval(
        client, everywhere, f"{support.email} factor", subjects=users, mfa=True
    )
    response = ask(client, support, [tenant.slug])
    assert problem(response) == (403, "elevation_denied")
    assert response.get_json()["rules"] == [with_factor["id"]]


def test_request_that_cannot_be_made_is_recorded_as_an_attempt(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    rule: dict[str, Any],
    support: Account,
) -> None:
    """Whoever asks learns by the answer what a tenant's rules say, and which tenants there are."""
    free = add_tenant(app)
    attempts = (
        (ask(client, support, [free.slug]), 409, [free.slug]),
        (ask(client, support, None), 409, [None]),
        (ask(client, support, [tenant.slug, "nobodys"]), 422, [tenant.slug, "nobodys"]),
        (ask(client, support, [tenant.slug], minutes=61), 422, [tenant.slug]),
        (ask(client, support, [tenant.slug], minutes=0), 422, [None]),
    )
    for response, status, slugs in attempts:
        assert response.status_code == status, response.text
        events = committed(app, *receipt(response))
        assert [event["scope"]["tenant"] for event in events] == slugs
        for event in events:
            assert (event["kind"], event["surface"]) == ("change", "admin.grants.ask")
            assert (event["outcome"], event["http_status"]) == ("failed", status)
            assert event["decision"]["grant_ids"] == []  # none was made
            assert event["actor"]["email"] == support.email
    assert requests_of(client, support) == 0
