"""Lockout: the last rule that lets an owner administer the platform's rules cannot be removed."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, NullPool, create_engine, select, text
from werkzeug.test import TestResponse

from tests.audit.ledgers import owner_connection
from tests.audit.receipts import PATIENCE, wait_for
from tests.factories import Account, add_account, add_tenant
from tests.rules.calls import PATH, add_rule, draft, etag, names, of, problem
from webapp.db.scopes import GlobalScope
from webapp.extensions import db
from webapp.rules import lockout, service
from webapp.rules.models import RuleRow

REFUSED = (409, "conflict", ["rule"])
REASON = "maintenance"


@pytest.fixture(scope="module")
def owner(app: Flask) -> Account:
    return add_account(app, "owner", mfa=True)


@pytest.fixture
def headers(owner: Account) -> dict[str, str]:
    return owner.headers("global", REASON)


@pytest.fixture
def only(
    app: Flask, client: FlaskClient, owner: Account, headers: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """The only enabled rule of the platform, for the time of a test."""
    rule = add_rule(
        client,
        headers,
        f"owners {uuid4()}",
        effect="allow",
        subjects={"roles": ["owner"]},
        surfaces=["admin.*"],
    )
    engine = create_engine(app.extensions["settings"].database_owner_url, poolclass=NullPool)
    switched = _switch_off_others(engine, UUID(rule["id"]))
    yield rule
    _switch_on(engine, switched)
    _remove_all_by(app, owner.email)


def _remove_all_by(app: Flask, email: str) -> None:
    scope = GlobalScope(uuid4())
    made = select(RuleRow.id).where(RuleRow.created_by == email, RuleRow.deleted_at.is_(None))
    with app.app_context(), db.scoped(scope):
        for rule_id in db.session.scalars(made).all():
            service.delete_rule(rule_id, lambda _: None, "tests@example.org")
        db.session.commit()


def _switch_off_others(engine: Engine, kept: UUID) -> list[UUID]:
    """Disable the platform's other rules in the database, without the check that is tested here."""
    off = text(
        "update rules set enabled = false"
        " where tenant_id is null and enabled and id <> :kept returning id"
    )
    with engine.begin() as connection:
        connection.execute(text("alter table rules no force row level security"))
        ids = list(connection.scalars(off, {"kept": kept}))
        connection.execute(text("alter table rules force row level security"))
    return ids


def _switch_on(engine: Engine, ids: list[UUID]) -> None:
    with engine.begin() as connection:
        connection.execute(text("alter table rules no force row level security"))
        connection.execute(
            text("update rules set enabled = true where id = any(:ids)"), {"ids": ids}
        )
        connection.execute(text("alter table rules force row level security"))


def change(
    client: FlaskClient, headers: dict[str, str], rule: dict[str, Any], **changes: Any
) -> tuple[int, str, list[str]] | int:
    answer = client.patch(of(rule), headers=headers | {"If-Match": etag(rule)}, json=changes)
    return answer.status_code if answer.status_code == 200 else problem(answer)


def test_last_owner_rule_cannot_be_deleted(
    client: FlaskClient, headers: dict[str, str], only: dict[str, Any]
) -> None:
    answer = client.delete(of(only), headers=headers | {"If-Match": etag(only)})
    assert problem(answer) == REFUSED
    assert "no rule that lets an owner" in answer.get_json(force=True)["detail"]
    assert client.get(of(only), headers=headers).get_json() == only


@pytest.mark.parametrize(
    "changes",
    [
        {"enabled": False},
        {"effect": "deny"},
        {"effect": "require_approval"},
        {"subjects": {"roles": ["engineer"]}},
        {"subjects": {"users": ["somebody@example.org"]}},
        {"surfaces": ["admin.rules.list"]},
        {"surfaces": ["admin.audits.*"]},
        {"reasons": ["break_glass"]},
        {"ticket": "OPS-*"},
        {"networks": ["10.0.0.0/8"]},
        {"windows": [{"days": ["mon"], "from": "08:00", "to": "18:00", "tz": "UTC"}]},
        {"starts_at": "2100-01-01T00:00:00Z"},
        {"ends_at": "2100-01-01T00:00:00Z"},
    ],
    ids=str,
)
def test_last_owner_rule_cannot_be_narrowed_below_its_purpose(
    client: FlaskClient, headers: dict[str, str], only: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert change(client, headers, only, **changes) == REFUSED


@pytest.mark.parametrize(
    "changes",
    [
        {"description": "Kept."},
        {"surfaces": ["admin.rules.*"]},
        {"reasons": ["legal", REASON]},
        {"mfa": True},
        {"subjects": {"roles": ["owner", "engineer"]}},
        {"starts_at": "2020-01-01T00:00:00Z"},
    ],
    ids=str,
)
def test_last_owner_rule_can_be_changed_while_it_serves_its_purpose(
    client: FlaskClient, headers: dict[str, str], only: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert change(client, headers, only, **changes) == 200


@pytest.mark.parametrize(
    ("denial", "refused"),
    [
        ({}, True),
        ({"effect": "require_approval"}, True),
        ({"surfaces": ["admin.rules.update"]}, True),
        ({"starts_at": "2100-01-01T00:00:00Z"}, True),
        ({"starts_at": "2099-01-01T00:00:00Z", "ends_at": "2100-01-01T00:00:00Z"}, False),
        ({"reasons": ["legal"]}, False),
        ({"subjects": {"roles": ["support"]}}, False),
        ({"surfaces": ["admin.audits.*"]}, False),
        ({"mfa": True}, False),
        ({"networks": ["10.0.0.0/8"]}, False),
        ({"enabled": False}, False),
    ],
    ids=str,
)
def test_denial_that_locks_every_owner_out_is_refused(
    client: FlaskClient,
    headers: dict[str, str],
    only: dict[str, Any],
    denial: dict[str, Any],
    refused: bool,
) -> None:
    name = f"denial {uuid4()}"
    body = draft(name, **{"effect": "deny", "surfaces": ["admin.*"], **denial})
    answer = client.post(PATH, headers=headers, json=body)
    assert (problem(answer) == REFUSED) if refused else (answer.status_code == 201)
    assert (name in names(client, headers, q=name)) == (not refused)


Removal = Callable[[FlaskClient, dict[str, str], dict[str, Any]], TestResponse]


def delete_it(client: FlaskClient, headers: dict[str, str], rule: dict[str, Any]) -> TestResponse:
    return client.delete(of(rule), headers=headers | {"If-Match": etag(rule)})


def disable_it(client: FlaskClient, headers: dict[str, str], rule: dict[str, Any]) -> TestResponse:
    tagged = headers | {"If-Match": etag(rule)}
    return client.patch(of(rule), headers=tagged, json={"enabled": False})


class TakingTurns:
    """Two concurrent changes, each flushed before the other one is checked.

    The first checked change commits only after the second one is checked too or waits for the lock.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._flushed = Barrier(2, timeout=PATIENCE)
        self._checked = 0
        self._check = lockout.refuse_lockout

    def __call__(self, changed: RuleRow) -> None:
        self._flushed.wait()
        self._check(changed)
        self._checked += 1
        wait_for(lambda: self._checked == 2 or self._somebody_waits())

    def _somebody_waits(self) -> bool:
        waiting = text(
            "select exists (select from pg_locks join pg_database on oid = database"
            " where datname = current_database() and locktype = 'advisory' and not granted)"
        )
        with owner_connection(self._app) as connection:
            return bool(connection.scalar(waiting))


@pytest.mark.parametrize(
    ("first", "second"),
    [(delete_it, delete_it), (disable_it, delete_it), (disable_it, disable_it)],
    ids=["both deleted", "one disabled, one deleted", "both disabled"],
)
def test_one_of_two_concurrent_removals_of_the_last_two_owner_rules_is_refused(
    app: Flask,
    client: FlaskClient,
    headers: dict[str, str],
    only: dict[str, Any],
    first: Removal,
    second: Removal,
) -> None:
    other = add_rule(
        client, headers, f"more owners {uuid4()}", effect="allow", surfaces=["admin.*"]
    )
    with (
        mock.patch.object(service, "refuse_lockout", TakingTurns(app)),
        ThreadPoolExecutor(2) as threads,
    ):
        going = [
            threads.submit(remove, app.test_client(), headers, rule)
            for remove, rule in ((first, only), (second, other))
        ]
        answers = [each.result() for each in going]
    assert [problem(answer) for answer in answers if answer.status_code >= 400] == [REFUSED]
    assert client.get(PATH, headers=headers).status_code == 200


def test_tenant_rule_that_denies_everything_is_no_lockout(
    app: Flask, client: FlaskClient, headers: dict[str, str], only: dict[str, Any]
) -> None:
    tenant = add_tenant(app)
    admin = add_account(app, member_of={tenant.slug: "admin"})
    add_rule(client, admin.headers(), "nobody", effect="deny", surfaces=["*"])
    assert change(client, headers, only, description="Still.") == 200
