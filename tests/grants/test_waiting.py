"""Decisions about grants that wait for a lock, or that name the version they are about."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from tests.audit.receipts import committed, receipt, wait_for
from tests.factories import Account, MadeTenant, add_account
from tests.grants.calls import act, add_request, of, perform, problem, require_approval
from tests.isolation.logins import connected
from tests.rules.calls import PATH as RULES
from webapp.db.roles import MAINTENANCE_ROLE
from webapp.db.scopes import DirectoryScope
from webapp.directory import service as directory
from webapp.extensions import db

Change = Callable[[], object]


def in_directory(app: Flask, change: Change) -> None:
    with app.app_context(), db.scoped(DirectoryScope()):
        change()
        db.session.commit()


LOCK = text("select id from grants where id = :id for update")
WAITING = text(
    "select count(*) from pg_locks where not granted"
    " and pg_backend_pid() = any (pg_blocking_pids(pid))"
)


Waiting = Callable[[Account, str, dict[str, Any]], AbstractContextManager[Future[TestResponse]]]


@pytest.fixture
def waiting(app: Flask, environment: dict[str, str]) -> Waiting:
    """Let somebody act on a grant, whose lock they get once the block is over."""

    @contextmanager
    def wait(who: Account, action: str, grant: dict[str, Any]) -> Iterator[Future[TestResponse]]:
        with ThreadPoolExecutor(1) as thread, connected(environment, "commands") as holder:
            holder.execute(text(f"set role {MAINTENANCE_ROLE}"))
            holder.execute(LOCK, {"id": UUID(grant["id"])}).one()
            answer = thread.submit(act, app.test_client(), who, action, grant)
            wait_for(lambda: holder.scalar(WAITING) == 1)
            yield answer
            holder.rollback()

    return wait


@pytest.mark.parametrize("action", ["approve", "deny", "revoke"])
def test_role_that_ends_while_its_decision_waits_does_not_count(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    request_: dict[str, Any],
    waiting: Waiting,
    action: str,
) -> None:
    with waiting(admin, action, request_) as answer:
        in_directory(app, lambda: directory.set_membership(admin.email, tenant.slug, "member"))
    refused = answer.result()
    assert problem(refused) == (403, "forbidden")
    (event,) = committed(app, *receipt(refused))
    assert (event["outcome"], event["actor"]["roles"]) == ("denied", [f"{tenant.slug}:member"])
    other = add_account(app, member_of={tenant.slug: "admin"})
    assert perform(client, other, "approve", request_)["state"] == "approved"


def test_token_that_ends_while_its_decision_waits_does_not_count(
    app: Flask, admin: Account, request_: dict[str, Any], waiting: Waiting
) -> None:
    with waiting(admin, "approve", request_) as answer:
        in_directory(app, lambda: directory.revoke_token(admin.token_id))
    assert answer.result().status_code == 401


def test_rule_that_changes_while_an_approval_waits_counts_as_it_is_then(
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    waiting: Waiting,
) -> None:
    rule = require_approval(client, admin.headers())
    grant = add_request(client, support, tenant)
    with waiting(admin, "approve", grant) as answer:
        version = client.get(f"{RULES}/{rule['id']}", headers=admin.headers()).headers["ETag"]
        changed = client.patch(
            f"{RULES}/{rule['id']}",
            headers={**admin.headers(), "If-Match": version},
            json={"min_approvals": 2},
        )
        assert changed.status_code == 200, changed.text
    approved = answer.result()
    assert (approved.status_code, approved.get_json()["state"]) == (200, "requested")


def test_decision_about_another_version_is_stale_and_changes_nothing(
    app: Flask,
    worker: None,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
) -> None:
    require_approval(client, admin.headers(), min_approvals=2)
    grant = add_request(client, support, tenant)
    seen = client.get(of(grant), headers=admin.headers()).headers["ETag"]
    other = add_account(app, member_of={tenant.slug: "admin"})
    approved = client.post(of(grant, "approve"), headers={**other.headers(), "If-Match": seen})
    assert (approved.status_code, approved.headers["ETag"] != seen) == (200, True)
    for action in ("approve", "deny", "revoke"):
        stale = client.post(of(grant, action), headers={**admin.headers(), "If-Match": seen})
        assert problem(stale) == (412, "stale")
        (event,) = committed(app, *receipt(stale))
        assert (event["outcome"], event["http_status"]) == ("failed", 412)
    read = client.get(of(grant), headers=admin.headers())
    assert (read.get_json(), read.headers["ETag"]) == (
        approved.get_json(),
        approved.headers["ETag"],
    )
    now = {**admin.headers(), "If-Match": f'"0.1", {approved.headers["ETag"]}'}
    assert client.post(of(grant, "approve"), headers=now).get_json()["state"] == "approved"


def test_malformed_version_is_refused(
    client: FlaskClient, admin: Account, request_: dict[str, Any]
) -> None:
    headers = {**admin.headers(), "If-Match": "7"}
    assert problem(client.post(of(request_, "deny"), headers=headers)) == (422, "invalid")
