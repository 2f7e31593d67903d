"""Check that every command that enters a scope of tenants' rows leaves a record of it."""

import inspect
from collections.abc import Iterator
from types import FunctionType

import click
from flask import Flask

from webapp.audit.append import append_own
from webapp.commands import LazyCommand
from webapp.db.scopes import (
    GlobalScope,
    MaintenanceScope,
    PolicyScope,
    PrincipalScope,
    TenantScope,
)
from webapp.scope.command_access import command_access
from webapp.scope.lint.finding import LintFinding
from webapp.scope.lint.reach import named_by, reached_by

UNRECORDED = "unrecorded-command"

_SCOPES = (GlobalScope, MaintenanceScope, PolicyScope, PrincipalScope, TenantScope)
"""The scopes that see what tenants' people write and do."""

EXEMPT = {"demo seed": "in development only: makes tenants of its own"}
"""Commands that enter such a scope without a record, and why."""


def check_commands(app: Flask) -> list[LintFinding]:
    return [
        LintFinding(f"command {name}", None, UNRECORDED, problem)
        for name, command in commands_of(app)
        for problem in _check(name, command)
    ]


def commands_of(app: Flask) -> Iterator[tuple[str, click.Command]]:
    """The application's commands by their words, those of its groups too."""
    with app.app_context():
        yield from _commands_of(app.cli, click.Context(app.cli))


def _commands_of(
    group: click.Group, context: click.Context, *path: str
) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, LazyCommand):
            command = command.loaded
        if isinstance(command, click.Group):
            yield from _commands_of(command, context, *path, name)
        elif command is not None:
            yield " ".join((*path, name)), command


def _check(name: str, command: click.Command) -> Iterator[str]:
    if command.callback is None:
        return
    reached = reached_by(command.callback)
    enters = any(map(_enters, reached))
    if name in EXEMPT:
        if not enters:
            yield "needs no exemption any more"
    elif enters and reached.isdisjoint(_RECORDING):
        yield "reads tenants' rows without command_access, and records no change"


def _enters(function: FunctionType) -> bool:
    """Whether a function itself enters a scope that sees tenants' rows."""
    return "scoped" in function.__code__.co_names and any(
        value in _SCOPES for value in named_by(function) if isinstance(value, type)
    )


_RECORDING = {inspect.unwrap(command_access), append_own}
