"""Tests that each request commits one record for each (user, surface, reason).

Entering a surface again adds no record. No record is shared with another request, or merged with
one of another surface or reason.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.audit.receipts import committed, committed_of_request, receipt
from tests.factories import INCIDENT, Account, add_account, add_tenant

GLOBAL = "accesses.things|incident|"


def ask(client: FlaskClient, who: Account, *accesses: str, request_id: str = "") -> TestResponse:
    headers = {**who.headers("global", INCIDENT), "X-Request-ID": request_id or uuid4().hex}
    return client.get(
        "/admin/accesses/several", query_string={"access": list(accesses)}, headers=headers
    )


def test_page_with_several_accesses_to_one_surface_leaves_one_record(
    app: Flask, accesses: FlaskClient, engineer: Account
) -> None:
    request_id = uuid4().hex
    answer = ask(accesses, engineer, *[GLOBAL] * 7, request_id=request_id)
    assert answer.status_code == 200
    events = committed_of_request(app, request_id)
    assert [event["surface"] for event in events] == ["accesses.several", "accesses.things"]
    assert [event["repeats"] for event in events] == [1, 7]
    assert [event["rows"] for event in events] == [None, 7]
    assert [event["id"] for event in events] == list(map(str, receipt(answer)))


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(["accesses.others|incident|"], id="surface"),
        pytest.param(["accesses.things|fraud|"], id="code"),
        pytest.param(['accesses.things|incident;ticket="A"|'], id="ticket"),
        pytest.param(['accesses.things|incident;note="because"|'], id="note"),
        pytest.param(["accesses.others|legal|", 'accesses.things|legal;ticket="A"|'], id="all"),
    ],
)
def test_accesses_with_another_surface_or_reason_have_their_own_record(
    app: Flask, accesses: FlaskClient, engineer: Account, others: list[str]
) -> None:
    answer = ask(accesses, engineer, GLOBAL, *others, GLOBAL, *others)
    events = committed(app, *receipt(answer))[1:]
    assert [event["repeats"] for event in events] == [2] * (1 + len(others))
    keys = {(event["surface"], *map(str, event["reason"].values())) for event in events}
    assert len(keys) == len(events)


def test_two_requests_share_no_record(app: Flask, accesses: FlaskClient, engineer: Account) -> None:
    answers = [ask(accesses, engineer, GLOBAL, GLOBAL) for _ in range(3)]
    ids = [event_id for answer in answers for event_id in receipt(answer)]
    assert len(set(ids)) == 6
    events = committed(app, *ids)
    assert [event["repeats"] for event in events] == [1, 2] * 3
    assert len({event["request"]["id"] for event in events}) == 3


def test_concurrent_requests_share_no_record(
    app: Flask, accesses_app: Flask, worker: None, engineer: Account
) -> None:
    together = Barrier(8)

    def one(_: int) -> TestResponse:
        client = accesses_app.test_client()
        together.wait()
        return ask(client, engineer, GLOBAL, GLOBAL)

    with ThreadPoolExecutor(8) as threads:
        ids = [id_ for answer in threads.map(one, range(8)) for id_ in receipt(answer)]
    assert len(set(ids)) == 16
    assert [event["repeats"] for event in committed(app, *ids)] == [1, 2] * 8


def test_two_requests_in_one_application_context_share_no_record(
    app: Flask, accesses_app: Flask, accesses: FlaskClient, engineer: Account
) -> None:
    """`flask.g` belongs to the context, which a caller may push around several requests."""
    with accesses_app.app_context():
        ids = [id_ for _ in range(2) for id_ in receipt(ask(accesses, engineer, GLOBAL))]
    assert len(set(ids)) == 4
    assert [event["repeats"] for event in committed(app, *ids)] == [1] * 4


def test_two_people_share_no_record(app: Flask, accesses: FlaskClient, engineer: Account) -> None:
    other = add_account(app, "engineer")
    ids = [id_ for who in (engineer, other) for id_ in receipt(ask(accesses, who, GLOBAL))]
    emails = [event["actor"]["email"] for event in committed(app, *ids)]
    assert emails == [engineer.email] * 2 + [other.email] * 2


def test_second_scope_for_one_surface_and_reason_is_refused(
    app: Flask, accesses: FlaskClient, engineer: Account
) -> None:
    """The accesses before the refusal are recorded."""
    tenant = add_tenant(app)
    answer = ask(accesses, engineer, GLOBAL, f"accesses.things|incident|{tenant.slug}")
    assert answer.status_code == 500
    events = committed(app, *receipt(answer))
    assert [event["surface"] for event in events] == ["accesses.several", "accesses.things"]
    assert [event["outcome"] for event in events] == ["failed", "failed"]
    assert [event["scope"]["kind"] for event in events] == ["global", "global"]


def test_one_request_may_use_global_and_tenant_scope_on_two_surfaces(
    app: Flask, accesses: FlaskClient, engineer: Account
) -> None:
    tenant = add_tenant(app)
    answer = ask(accesses, engineer, GLOBAL, f"accesses.one|incident|{tenant.slug}")
    scopes = [event["scope"] for event in committed(app, *receipt(answer))[1:]]
    assert scopes == [
        {"kind": "global", "tenant_id": None, "tenant": None},
        {"kind": "tenant", "tenant_id": str(tenant.id), "tenant": tenant.slug},
    ]


def test_rules_list_leaves_one_record_cached_or_not(
    app: Flask, accesses: FlaskClient, engineer: Account
) -> None:
    answers = [
        accesses.get("/admin/api/rules", headers=engineer.headers("global", INCIDENT))
        for _ in range(3)
    ]
    assert [len(receipt(answer)) for answer in answers] == [1, 1, 1]
    events = committed(app, *[receipt(answer)[0] for answer in answers])
    assert len({event["id"] for event in events}) == 3
    assert [event["repeats"] for event in events] == [1, 1, 1]
    assert {event["rows"] for event in events} == {len(answers[0].get_json()["items"])}
