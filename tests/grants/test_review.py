"""break-glass over HTTP: listed like a grant, ended like one, and reviewed by somebody else."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account, MadeTenant, add_account
from tests.grants.calls import PATH, act, done, of, problem
from tests.rules.calls import PATH as RULES
from tests.rules.calls import add_rule

FOUND = {"text": "The customer had asked for it by telephone."}


@pytest.fixture
def broken(
    client: FlaskClient,
    owner: Account,
    support: Account,
    tenant: MadeTenant,
    rule: dict[str, Any],
) -> dict[str, Any]:
    """What support has open, in spite of the rule that wants an approval."""
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


def test_it_is_reviewed_by_somebody_else_once_it_is_over(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    broken: dict[str, Any],
) -> None:
    assert (broken["state"], broken["tenant"]) == ("approved", tenant.slug)
    assert problem(review(client, admin, broken)) == (409, "conflict")
    done(client, admin, "revoke", broken)
    assert break_glass(client, support, tenant) == 403

    refused = review(client, support, broken)
    assert problem(refused) == (403, "forbidden")
    (event,) = committed(app, *receipt(refused))
    assert (event["surface"], event["outcome"]) == ("admin.grants.review", "denied")

    reviewed = review(client, admin, broken)
    grant = reviewed.get_json()
    assert reviewed.status_code == 200
    assert (grant["review"], grant["reviewed_by"]) == (FOUND["text"], admin.email)
    assert client.get(of(broken), headers=support.headers()).get_json() == grant
    (event,) = committed(app, *receipt(reviewed))
    assert (event["kind"], event["outcome"]) == ("change", "served")
    assert event["reason"]["code"] == "break_glass"
    assert event["decision"]["grant_ids"] == [broken["id"]]
    assert problem(review(client, admin, broken)) == (409, "conflict")
    assert break_glass(client, support, tenant) == 200


def test_who_may_review(
    app: Flask, client: FlaskClient, outsider: Account, broken: dict[str, Any]
) -> None:
    assert problem(review(client, outsider, broken)) == (404, "not_found")
    assert problem(review(client, add_account(app, "engineer"), broken)) == (403, "forbidden")
    auditor = add_account(app, "auditor")
    assert problem(review(client, auditor, broken)) == (409, "conflict")
    for text in ("", "x" * 4001):
        assert problem(review(client, auditor, broken, text=text)) == (422, "invalid")


@pytest.mark.parametrize("action", ["approve", "deny"])
def test_nobody_is_asked_about_it(
    app: Flask, client: FlaskClient, broken: dict[str, Any], action: str
) -> None:
    assert problem(act(client, add_account(app, "owner"), action, broken)) == (409, "conflict")


def test_only_break_glass_is_reviewed(
    client: FlaskClient, admin: Account, request_: dict[str, Any]
) -> None:
    assert problem(review(client, admin, request_)) == (409, "conflict")
