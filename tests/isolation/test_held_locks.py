"""Locks that a stolen password can hold for ever stop no append, no trigger and no task."""

from datetime import date

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from tests.audit.ledgers import owner_connection
from tests.conftest import Run
from tests.factories import MadeTenant
from tests.isolation.logins import connected
from webapp.audit import append
from webapp.db.roles import ADMINISTRATION_ROLE
from webapp.db.scopes import LedgerScope, MaintenanceScope
from webapp.extensions import db
from webapp.rules.simulation import queue

FORMER = ("1365733662", "1365733663", "1365733664", "hashtext('ensure_audit_partition')")
"""The keys of the advisory locks that these turns had before."""


def test_advisory_locks_of_the_webs_login_stop_nothing(
    app: Flask, environment: dict[str, str], run: Run, tenant: MadeTenant
) -> None:
    with connected(environment, "web") as attacker:
        for key in FORMER:
            attacker.execute(text(f"select pg_advisory_lock({key})"))
        assert run("tenants", "rename", tenant.slug, "--name", "New").exit_code == 0  # a trigger
        listed = run("rules", "list", "--tenant", tenant.slug, "--reason", "legal")  # an append
        assert listed.exit_code == 0, listed.output
        with app.app_context(), db.scoped(LedgerScope()):
            append.set_aside(db.session, "not opened", b"x")
            append.ensure_partitions(db.session, [date(2031, 5, 1)])
            db.session.rollback()
        with app.app_context(), db.scoped(MaintenanceScope()):
            queue.take()
            db.session.rollback()


def test_no_function_of_the_database_takes_a_lock_that_any_login_can_hold(app: Flask) -> None:
    taking = (
        "select proname from pg_proc where prosrc ~ 'advisory'"
        " and pronamespace = 'public'::regnamespace"
    )
    with owner_connection(app) as owner:
        assert owner.scalars(text(taking)).all() == []


def test_role_that_administers_locks_no_table_against_others(environment: dict[str, str]) -> None:
    """A login that may update or delete whole rows may take such a lock, whatever it proves."""
    with connected(environment, "web") as attacker:
        attacker.execute(text(f"set role {ADMINISTRATION_ROLE}"))
        for table in ("tenants", "memberships", "api_tokens", "principals", "platform_roles"):
            for mode in ("share", "exclusive", "access exclusive"):
                with (
                    pytest.raises(ProgrammingError, match="permission denied"),
                    attacker.begin_nested(),
                ):
                    attacker.execute(text(f"lock {table} in {mode} mode"))
