"""Shared parts of command groups: errors without a traceback, tables, and JSON for programs."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, fields, is_dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click
import orjson
from flask.cli import AppGroup
from rich.console import Console
from rich.table import Table
from sqlalchemy import exc as sql

from webapp.db.roles import UnsafeLoginRole
from webapp.http.errors import AppError
from webapp.version import VERSION

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PIPED_WIDTH = 400
"""Wide enough that no line of a table is folded where a program may read it."""

FOLDED_WIDTH = 8
"""The least width of a column that folds. A table that needs more is wider than the terminal."""

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12},?")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


class Commands(AppGroup):
    """A group whose commands report an expected error in one line on standard error, and exit 1."""

    def __init__(self, name: str, *, help: str) -> None:
        super().__init__(name, help=help)
        # `flask --version` is Flask's own option, which an application cannot change.
        click.version_option(VERSION, prog_name="Sightline")(self)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AppError as error:
            raise click.ClickException(str(error)) from error
        except UnsafeLoginRole as error:
            raise click.ClickException(f"Refused: {error}; see DATABASE_URL.") from error
        except (sql.OperationalError, sql.TimeoutError) as error:
            raise click.ClickException("The database does not answer; see DATABASE_URL.") from error


class LazyCommand(click.Command):
    """A command whose module is imported when the command runs, not when commands are listed.

    Importing all modules would take a good part of the time that `flask --help` may take.
    """

    def __init__(self, load: Callable[[], click.Command]) -> None:
        """`load` imports the command. It has the command's name, and its docstring is the
        command's line in the list."""
        super().__init__(load.__name__, help=load.__doc__)
        self._load = load

    @cached_property
    def loaded(self) -> click.Command:
        return self._load()

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """The context of the command itself, which is what click then invokes."""
        return self.loaded.make_context(info_name, args, parent, **extra)


def print_json(value: object) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z))


def print_rows(
    kind: "type[DataclassInstance]", rows: Sequence["DataclassInstance"], *, as_json: bool
) -> None:
    """Print dataclasses of one kind: a column for each field, or `{"items": […]}`."""
    if as_json:
        print_json({"items": rows})
        return
    if not rows:
        click.echo("Nothing found.")
        return
    table, width = Table(), 1
    cells = [[_cell(value) for value in astuple(row)] for row in rows]
    for field, column in zip(fields(kind), zip(*cells, strict=True), strict=True):
        heading = field.name.replace("_", " ")
        least = max(map(_least_width, (heading, *column)))
        is_narrow = all(len(cell) <= least for cell in (heading, *column))
        table.add_column(heading, overflow="fold", min_width=least, no_wrap=is_narrow)
        width += least + 3  # its borders
    for row_cells in cells:
        table.add_row(*row_cells)
    console(at_least=width).print(table, crop=False)


def print_details(details: "DataclassInstance", *, as_json: bool) -> None:
    """Print one dataclass: a line for each field, and a table for each that holds dataclasses."""
    if as_json:
        print_json(details)
        return
    for field in fields(details):
        value, heading = getattr(details, field.name), field.name.replace("_", " ")
        match value:
            case (first, *_) if is_dataclass(first) and not isinstance(first, type):
                click.echo(f"{heading}:")
                print_rows(type(first), value, as_json=False)
            case _:
                click.echo(f"{heading}: {_cell(value) or '-'}")


def _least_width(cell: str) -> int:
    """The width to which a cell may be folded: an id stays whole."""
    return max(map(len, _ID.findall(cell)), default=min(len(cell), FOLDED_WIDTH))


def console(*, at_least: int = 0) -> Console:
    """Make a console that prints names as they are: no markup, no emoji codes, no guessed colours.

    The console is as wide as the terminal, and at least as wide as `at_least`.
    """
    wide = Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)
    return Console(width=max(wide.width, at_least), markup=False, emoji=False, highlight=False)


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone(UTC).isoformat(sep=" ", timespec="seconds")[:-6] + "Z"
        case tuple() | list():
            return ", ".join(map(str, value))
        case Mapping():
            return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return str(value)
