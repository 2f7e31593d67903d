"""Imports that run beside other changes of the same rules: they wait, and never deadlock."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event, current_thread
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import NullPool, create_engine, select, text

from tests.audit.ledgers import owner_connection
from tests.audit.receipts import wait_for
from tests.factories import INCIDENT, Account, MadeTenant, add_account
from tests.rules.calls import add_rule, draft, etag, of
from webapp.db.limits import limits_of_statements
from webapp.db.scopes import GlobalScope, TenantScope
from webapp.db.session import ScopedSession
from webapp.extensions import db
from webapp.http.errors import Stale
from webapp.rules import lockout, service
from webapp.rules.files import transfer
from webapp.rules.files.format import read_file
from webapp.rules.models import RuleRow

PATIENCE = 120
IMPORTED, STALE = "imported", "stale"


def import_rules(app: Flask, file: dict[str, Any]) -> str:
    """Import rules like the command, of which a process can only run one at a time."""
    scope = GlobalScope(uuid4())
    with app.app_context(), db.scoped(scope):
        plan = transfer.plan_import(read_file(yaml.safe_dump(file)), prune=False)
        try:
            transfer.carry_out(scope, plan, "tests@example.org")
        except Stale:
            return STALE
        db.session.commit()
    return IMPORTED


def waiting(app: Flask) -> int:
    """How many connections wait for a lock that another connection holds."""
    with owner_connection(app) as connection:
        count = "select count(*) from pg_locks join pg_stat_activity using (pid)"
        of_this_database = "where datname = current_database() and not granted"
        return int(connection.scalar(text(f"{count} {of_this_database}")) or 0)


def test_two_imports_of_the_same_rules_in_opposite_orders_do_not_deadlock(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    made = [add_rule(client, admin.headers(), name) for name in ("a", "b", "c")]
    drafts = [draft(rule["name"], description="imported") for rule in made]
    files = [{"tenants": {tenant.slug: order}} for order in (drafts, drafts[::-1])]
    engine = create_engine(app.extensions["settings"].database_url, poolclass=NullPool)
    with (
        closing(ScopedSession(engine, limits=limits_of_statements(60))) as holder,
        ThreadPoolExecutor(2) as threads,
    ):
        holder.enter(TenantScope(tenant.id))
        middle = RuleRow.id == UUID(made[1]["id"])
        holder.scalars(select(RuleRow.id).where(middle).with_for_update()).one()
        results = [threads.submit(import_rules, app, file) for file in files]
        wait_for(lambda: waiting(app) == 2)
        holder.rollback()
        assert sorted(each.result() for each in results) == [IMPORTED, STALE]


@pytest.fixture
def platform_rules(client: FlaskClient, owner: Account) -> list[dict[str, Any]]:
    headers = owner.headers("global", INCIDENT)
    names = [f"{word} of {owner.email}" for word in ("a", "b")]
    return [add_rule(client, headers, name, surfaces=["shop.nothing"]) for name in names]


def test_import_waits_for_a_request_that_changes_one_of_its_platform_rules(
    app: Flask, platform_rules: list[dict[str, Any]]
) -> None:
    """The request locks its rule and then waits for the lockout check.

    If the import took the lock of that check first and the rule second, both would deadlock.
    """
    _, changed = platform_rules
    flushed, check, importing = Event(), lockout.refuse_lockout, current_thread()

    def check_while_imported(row: RuleRow) -> None:
        if current_thread() is not importing:
            flushed.set()
            wait_for(lambda: waiting(app) == 1)
        check(row)

    def change() -> int:
        headers = add_account(app, "owner").headers("global", INCIDENT)
        tagged = headers | {"If-Match": etag(changed)}
        body = {"description": "by a request"}
        return app.test_client().patch(of(changed), headers=tagged, json=body).status_code

    drafts = [
        draft(rule["name"], surfaces=["shop.nothing"], description="imported")
        for rule in platform_rules
    ]
    with (
        mock.patch.object(service, "refuse_lockout", check_while_imported),
        ThreadPoolExecutor(1) as threads,
    ):
        changing = threads.submit(change)
        assert flushed.wait(PATIENCE)
        assert import_rules(app, {"platform": drafts}) == STALE
        assert changing.result() == 200
