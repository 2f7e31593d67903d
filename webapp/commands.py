"""What every command group shares: errors without a traceback, tables, and JSON for programs."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import orjson
from flask.cli import AppGroup
from rich.console import Console
from rich.table import Table
from sqlalchemy import exc as sql

from webapp.db.session import UnsafeLoginRole
from webapp.http.errors import AppError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PIPED_WIDTH = 400
"""Wide enough that no line of a table is folded where a program may read it."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


class Commands(AppGroup):
    """A group whose commands end with one line on standard error, and 1, where a request would be
    answered with a problem."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AppError as error:
            raise click.ClickException(str(error)) from error
        except UnsafeLoginRole as error:
            raise click.ClickException(f"Refused: {error}; see DATABASE_URL.") from error
        except (sql.OperationalError, sql.TimeoutError) as error:
            raise click.ClickException("The database does not answer; see DATABASE_URL.") from error


def print_json(value: object) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z))


def print_rows(
    kind: "type[DataclassInstance]", rows: Sequence["DataclassInstance"], *, as_json: bool
) -> None:
    """Print dataclasses of one kind: a column for each field, or `{"items": […]}`."""
    if as_json:
        print_json({"items": rows})
        return
    table = Table()
    for field in fields(kind):
        table.add_column(field.name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, astuple(row)))
    console().print(table)


def console() -> Console:
    """Prints what people have named as it is: no markup, no emoji codes, no guessed colours."""
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False)


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
