"""Behind a pooler that hands every transaction to its one connection, nothing is left over."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import psycopg2
import pytest
from flask import Flask
from psycopg2.errors import QueryCanceled
from psycopg2.extensions import connection
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.applications import application, application_of
from tests.db.poolers import PROGRAM, WHY_NOT, PgBouncer
from tests.factories import add_account, add_tenant
from tests.stacks import copied_stack
from webapp.db import migrate
from webapp.db.limits import LOGIN_SETTINGS
from webapp.db.roles import TENANT_ROLE
from webapp.db.scopes import LedgerScope
from webapp.doctor import diagnose
from webapp.extensions import db
from webapp.stack.home import Stack, running

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=WHY_NOT)

RULE = {"name": "no", "effect": "deny", "surfaces": ["a.b"]}
RULES = "/admin/api/rules"

DIES = """
import os, signal, sys, psycopg2
cursor = psycopg2.connect(sys.argv[1]).cursor()
cursor.execute("select set_config('role', %s, true)", sys.argv[2:3])
cursor.execute("select set_config('sightline.tenant_id', %s, true)", sys.argv[3:])
cursor.execute("select current_user")
print(cursor.fetchone()[0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = copied_stack(tmp_path_factory.mktemp("stack"))
    with running(made):
        yield made


@pytest.fixture(scope="module")
def pooler(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PgBouncer]:
    owner = {"sightline_owner": stack.owner_password}
    target = stack.environment["DATABASE_URL"]
    passwords = {**stack.logins, **owner}
    made = PgBouncer(tmp_path_factory.mktemp("pooler"), target, passwords, size=1)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def pooled(
    stack: Stack, pooler: PgBouncer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flask]:
    home = str(tmp_path_factory.mktemp("home"))
    url = pooler.url(stack.environment["DATABASE_URL"])
    with application({**stack.environment, "SIGHTLINE_HOME": home, "DATABASE_URL": url}) as made:
        yield made


def through(pooler: PgBouncer, stack: Stack) -> connection:
    return psycopg2.connect(pooler.url(stack.environment["DATABASE_URL"]))


def test_rule_is_written_and_read_through_one_connection(pooled: Flask) -> None:
    tenant = add_tenant(pooled)
    admin = add_account(pooled, member_of={tenant.slug: "admin"})
    client = pooled.test_client()
    made = client.post(RULES, headers=admin.headers(), json=RULE)
    listed = client.get(RULES, headers=admin.headers())
    assert made.status_code == 201
    assert [rule["id"] for rule in listed.get_json()["items"]] == [made.get_json()["id"]]


def test_postgresql_ends_a_long_statement_through_a_pooler(pooled: Flask) -> None:
    settings = replace(pooled.extensions["settings"], database_timeout=0.3)
    with (
        application_of(settings) as app,
        app.app_context(),
        db.scoped(LedgerScope()),
        pytest.raises(OperationalError) as ended,
    ):
        db.session.execute(text("select pg_sleep(60)"))
    assert isinstance(ended.value.orig, QueryCanceled)  # and not given up by this process


def test_login_has_its_limits_outside_the_products_transactions(
    pooler: PgBouncer, stack: Stack, pooled: Flask
) -> None:
    fresh = through(pooler, stack)
    with fresh.cursor() as cursor:
        cursor.execute(
            "select name, setting || unit from pg_settings where name = any(%s)",
            (list(LOGIN_SETTINGS),),
        )
        found = dict(cursor.fetchall())
    fresh.close()
    assert found == dict.fromkeys(LOGIN_SETTINGS, "60000ms")


def test_role_of_a_killed_client_does_not_reach_the_next_transaction(
    pooler: PgBouncer, stack: Stack, pooled: Flask
) -> None:
    tenant = str(add_tenant(pooled).id)
    url = pooler.url(stack.environment["DATABASE_URL"])
    died = subprocess.run(
        [sys.executable, "-c", DIES, url, TENANT_ROLE, tenant], capture_output=True, text=True
    )
    made = through(pooler, stack)
    with made.cursor() as cursor:
        cursor.execute(
            "select current_user = session_user, current_setting('sightline.tenant_id', true)"
        )
        [(next_role_is_its_own, next_tenant)] = cursor.fetchall()
    made.close()
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert died.stdout.strip() == TENANT_ROLE
    assert next_role_is_its_own
    assert next_tenant in {None, ""}


def test_request_that_gets_no_connection_of_the_pool_is_answered_503(
    pooler: PgBouncer, stack: Stack, pooled: Flask
) -> None:
    tenant = add_tenant(pooled)
    admin = add_account(pooled, member_of={tenant.slug: "admin"})
    holder = through(pooler, stack)
    with holder.cursor() as cursor:
        cursor.execute("select 1")  # a transaction that stays open
        refused = pooled.test_client().post(RULES, headers=admin.headers(), json=RULE)
    holder.close()
    made = pooled.test_client().post(RULES, headers=admin.headers(), json=RULE)
    assert refused.status_code == 503
    assert refused.get_json()["code"] == "database_unavailable"
    assert "Retry-After" in refused.headers
    assert made.status_code == 201


def test_request_after_a_restart_of_the_pooler_is_answered(
    pooler: PgBouncer, pooled: Flask
) -> None:
    tenant = add_tenant(pooled)
    admin = add_account(pooled, member_of={tenant.slug: "admin"})
    client = pooled.test_client()
    client.post(RULES, headers=admin.headers(), json=RULE)
    pooler.kill()
    refused = client.post(RULES, headers=admin.headers(), json={**RULE, "name": "other"})
    pooler.start()
    made = client.post(RULES, headers=admin.headers(), json={**RULE, "name": "other"})
    assert refused.status_code == 503
    assert made.status_code == 201


def test_migration_through_a_pooler_is_refused(pooler: PgBouncer, pooled: Flask) -> None:
    settings = pooled.extensions["settings"]
    wrong = replace(settings, database_owner_url=pooler.url(settings.database_owner_url))
    with pytest.raises(migrate.NotMigrated, match="DATABASE_OWNER_URL goes through a pooler"):
        migrate.upgrade(wrong)


@pytest.mark.parametrize("owner_pooled", [False, True])
def test_doctor_tells_of_a_pooler(pooler: PgBouncer, pooled: Flask, owner_pooled: bool) -> None:
    settings = pooled.extensions["settings"]
    owner = settings.database_owner_url
    url = pooler.url(owner) if owner_pooled else owner
    with application_of(replace(settings, database_owner_url=url)) as app, app.app_context():
        found = {each.check: each for each in diagnose(app)}["migrations go past a pooler"]
    assert found.ok is not owner_pooled
    assert ("goes through a pooler" if owner_pooled else "limits itself") in found.detail
