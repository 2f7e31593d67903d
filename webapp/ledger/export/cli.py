"""`flask ledger export`: write what the ledger has into a file that others can check."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
from flask.cli import with_appcontext

from webapp.commands import say
from webapp.extensions import db
from webapp.ledger.cli import FILTERS, filter_options, given_filters, load_filters
from webapp.ledger.export.lines import Counts
from webapp.ledger.export.schemas import OF_LISTS, ExportQuerySchema, ExportRequest
from webapp.ledger.export.service import Export
from webapp.scope.command_access import command_access, reason_option
from webapp.scope.headers import Reason

_FILTERS = tuple(name for name in FILTERS if name not in (*OF_LISTS, "tenant"))
_filter_options: Callable[[Callable[..., None]], Callable[..., None]]
_filter_options = partial(filter_options, names=_FILTERS)


@click.command("export")
@with_appcontext
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write to this file, which is there once it is whole.",
)
@click.option("--tenant", metavar="SLUG", help="Export what this tenant is shown.")
@click.option(
    "--anchor",
    type=click.IntRange(1),
    metavar="SIZE",
    help="Show the root that the log had at this size, too.",
)
@_filter_options
@reason_option
def export_command(
    *,
    output: Path,
    tenant: str | None,
    anchor: int | None,
    reason: Reason,
    **filters: str | None,
) -> None:
    """Write events and what proves them into a file, as GET /admin/api/audits/export has it.

    Without a filter it has every event, so that whoever reads it can check that none is missing.
    """
    given = given_filters(filters)
    asked: ExportRequest = load_filters(
        ExportQuerySchema(), {**given, **({"anchor": str(anchor)} if anchor else {})}
    )
    draft = output.with_name(f".{output.name}.part")
    try:
        with command_access(
            "ledger export", reason, {**given, "tenant": tenant, "anchor": anchor}, tenant=tenant
        ) as access:
            export = Export(db.session, asked, tenant)
            _write(draft, export)
            access.rows = export.counts.shown
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
    _print(export.counts, output)


def _write(draft: Path, export: Export) -> None:
    """Write the file for its owner only: it holds tenants' data."""
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600, exist_ok=False)
    with draft.open("wb") as file:
        file.writelines(export.parts)


def _print(counts: Counts, output: Path) -> None:
    withheld = f" and {counts.withheld} entries that are withheld" if counts.withheld else ""
    pending = f", {counts.pending} of them not sealed yet" if counts.pending else ""
    say(f"{counts.accesses} accesses and {counts.changes} changes{withheld} in {output}{pending}.")
