"""Break-glass incidents over HTTP: listed and ended like grants, and reviewed by somebody else."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account, MadeTenant, add_account
from tests.grants.calls import PATH, act, of, perform, problem
from tests.rules.calls import PATH as RULES
from tests.rules.calls import add_rule

FOUND = {"text": "The customer had asked for it by telephone."}


@pytest.fixture
def incident(
    client: FlaskClient,
    owner: Account,
    support: Account,
    tenant: MadeTenant,
    rule: dict[str, Any],
) -> dict[str, Any]:
    """An open incident of `support`, at a tenant that requires an approval."""
    assert rule
    add_rule(
        client,
        owner.headers("global", INCIDENT),
        f"{support.email} uses break-glass",
        effect="allow",
        surfaces=["*"],
        subjects={"users": [support.email]},
        reasons=["break_glass"],
    )
    assert break_glass(client, support, tenant) == 200
    own = {"holder": support.email, "kind": "break_glass"}
    listed = client.get(PATH, headers=support.headers(), query_string=own).get_json()
    (grant,) = listed["items"]
    return dict(grant)


def break_glass(client: FlaskClient, who: Account, tenant: MadeTenant) -> int:
    headers = who.headers(f"tenant:{tenant.slug}", 'break_glass;note="nobody answers"')
    return client.get(RULES, headers=headers).status_code


def review(client: FlaskClient, who: Account, grant: dict[str, Any], **body: Any) -> Any:
    return client.post(of(grant, "review"), headers=who.headers(), json=body or FOUND)


def test_incident_is_reviewed_by_somebody_else_once_it_is_over(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    incident: dict[str, Any],
) -> None:
    assert (incident["state"], incident["tenant"]) == ("approved", tenant.slug)
    assert problem(review(client, admin, incident)) == (409, "conflict")
    perform(client, admin, "revoke", incident)
    assert break_glass(client, support, tenant) == 403

    refused = review(client, support, incident)
    assert problem(refused) == (403, "forbidden")
    (event,) = committed(app, *receipt(refused))
    assert (event["surface"], event["outcome"]) == ("admin.grants.review", "denied")

    reviewed = review(client, admin, incident)
    grant = reviewed.get_json()
    assert reviewed.status_code == 200
    assert (grant["review"], grant["reviewed_by"]) == (FOUND["text"], admin.email)
    assert client.get(of(incident), headers=support.headers()).get_json() == grant
    (event,) = committed(app, *receipt(reviewed))
    assert (event["kind"], event["outcome"]) == ("change", "served")
    assert event["reason"]["code"] == "break_glass"
    assert event["decision"]["grant_ids"] == [incident["id"]]
    assert problem(review(client, admin, incident)) == (409, "conflict")
    assert break_glass(client, support, tenant) == 200


def test_review_needs_a_role_and_an_incident_that_is_over(
    app: Flask, client: FlaskClient, outsider: Account, incident: dict[str, Any]
) -> None:
    assert problem(review(client, outsider, incident)) == (404, "not_found")
    assert problem(review(client, add_account(app, "engineer"), incident)) == (403, "forbidden")
    auditor = add_account(app, "auditor")
    assert problem(review(client, auditor, incident)) == (409, "conflict")
    for text in ("", "x" * 4001):
        assert problem(review(client, auditor, incident, text=text)) == (422, "invalid")


@pytest.mark.parametrize("action", ["approve", "deny"])
def test_incident_cannot_be_approved_or_denied(
    app: Flask, client: FlaskClient, incident: dict[str, Any], action: str
) -> None:
    assert problem(act(client, add_account(app, "owner"), action, incident)) == (409, "conflict")


def test_grant_other_than_break_glass_cannot_be_reviewed(
    client: FlaskClient, admin: Account, request_: dict[str, Any]
) -> None:
    assert problem(review(client, admin, request_)) == (409, "conflict")
