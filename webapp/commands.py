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
import psycopg2.errors
import redis
from flask.cli import AppGroup
from rich.console import Console
from rich.table import Table
from sqlalchemy import exc as sql

from webapp.db.roles import UnsafeLoginRole
from webapp.db.session import violated_constraint
from webapp.http.errors import AppError
from webapp.settings import SettingsError
from webapp.text import escaped, escaped_json, escaped_lines
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
        except (click.UsageError, click.exceptions.Exit, click.Abort):
            raise
        except click.ClickException as error:
            raise click.ClickException(escaped_lines(error.message)) from error
        except Exception as error:
            raise click.ClickException(escaped_lines(self.describe(error))) from error

    def describe(self, error: Exception) -> str:
        return describe(error)


def describe(error: Exception) -> str:
    """What a command says of an error: never a statement, a parameter or a stack."""
    match error:
        case AppError():
            return str(error)
        case SettingsError():
            return f"{'; '.join(error.problems)}."
        case UnsafeLoginRole():
            return f"Refused: {error}; see DATABASE_URL."
        case sql.IntegrityError():
            constraint = violated_constraint(error)
            return "It contradicts what the database has" + (
                f": the constraint {constraint} refuses it." if constraint else "."
            )
        case sql.ProgrammingError(orig=psycopg2.errors.InsufficientPrivilege()):
            return "The login of DATABASE_URL may not do that."
        case sql.ProgrammingError(
            orig=psycopg2.errors.UndefinedTable()
            | psycopg2.errors.UndefinedColumn()
            | psycopg2.errors.UndefinedFunction()
        ):
            return "The database has another version's schema: run `flask db upgrade`."
        case sql.OperationalError() | sql.TimeoutError():
            return "The database does not answer; see DATABASE_URL."
        case sql.DBAPIError() if error.connection_invalidated:
            return "The database does not answer; see DATABASE_URL."
        case sql.SQLAlchemyError():
            cause = error.orig if isinstance(error, sql.DBAPIError) else error
            return f"The database refuses it ({type(cause).__name__})."
        case redis.RedisError():
            return "Redis does not answer; see REDIS_URL."
        case OSError(strerror=str() as problem):
            return f"{error.filename}: {problem}." if error.filename else f"{problem}."
    return f"It failed, by a fault of Sightline's own ({type(error).__name__})."


def say(text: str, *, nl: bool = True, **style: Any) -> None:
    """Print text whose lines are ours; what else is not printable in it is escaped."""
    click.secho(escaped_lines(text), nl=nl, **style)


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
    document = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z)
    click.echo(escaped_json(document.decode()))


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
                say(f"{heading}:")
                print_rows(type(first), value, as_json=False)
            case _:
                say(f"{heading}: {_cell(value) or '-'}")


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
    return escaped(_text(value))


def _text(value: object) -> str:
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
