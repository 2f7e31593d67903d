"""The lint of commands: each fault in a small application, and the application without it."""

from collections.abc import Callable
from uuid import uuid4

import click
import pytest
from flask import Flask

from webapp.audit import append
from webapp.commands import LazyCommand
from webapp.db.scopes import DirectoryScope, GlobalScope, MaintenanceScope, TenantScope
from webapp.extensions import db
from webapp.rules import rule_sets
from webapp.scope.command_access import command_access
from webapp.scope.headers import Reason
from webapp.scope.lint import commands
from webapp.scope.lint.commands import check_commands


def reads_all_tenants() -> None:
    with db.scoped(GlobalScope(uuid4())):
        pass


def reads_one_tenant() -> None:
    with db.scoped(TenantScope(uuid4())):
        pass


def reads_by_another_function() -> None:
    reads_all_tenants()


def reads_by_a_service() -> None:
    rule_sets.load()


def reads_by_an_import() -> None:
    from webapp.rules.rule_sets import load

    load()


def reads_as_maintenance() -> None:
    with db.scoped(MaintenanceScope()):
        pass


def reads_on_record() -> None:
    with command_access("rules list", Reason("legal"), {}):
        rule_sets.load()


def changes_on_record() -> None:
    with db.scoped(MaintenanceScope()):
        append.append_own(db.session, [])


def reads_the_directory() -> None:
    with db.scoped(DirectoryScope()):
        pass


def found(command: Callable[[], None], name: str = "tried") -> list[str]:
    app = Flask("small", static_folder=None)
    group = click.Group("rooms")
    group.add_command(click.Command(name, callback=command))

    def rooms() -> click.Command:
        """Rooms."""
        return group

    app.cli.add_command(LazyCommand(rooms))
    return [f"{finding.subject}: {finding.rule}" for finding in check_commands(app)]


@pytest.mark.parametrize(
    "command",
    [
        reads_all_tenants,
        reads_one_tenant,
        reads_by_another_function,
        reads_by_a_service,
        reads_by_an_import,
        reads_as_maintenance,
    ],
)
def test_command_that_enters_tenants_rows_without_a_record_is_found(
    command: Callable[[], None],
) -> None:
    assert found(command) == ["command rooms tried: unrecorded-command"]


@pytest.mark.parametrize("command", [reads_on_record, changes_on_record, reads_the_directory])
def test_command_that_leaves_a_record_or_reads_no_tenants_rows_is_not_found(
    command: Callable[[], None],
) -> None:
    assert found(command) == []


def test_exemption_is_found_once_it_is_needed_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "EXEMPT", {"rooms tried": "a reason"})
    assert found(reads_all_tenants) == []
    assert found(reads_the_directory) == ["command rooms tried: unrecorded-command"]
