"""`flask scope`: is every way to a tenant's rows declared, guarded and recorded?"""

import sys
from dataclasses import asdict

import click
import orjson
from flask import current_app
from flask.cli import AppGroup

from webapp.scope.lint import Report, lint

group = AppGroup("scope", help="The scopes that requests run in.")


@group.command("lint")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def lint_command(as_json: bool) -> None:
    """Check every route, table and source file; exit 1 when anything is found."""
    report = lint(current_app)
    click.echo(orjson.dumps(asdict(report)) if as_json else _text(report))
    sys.exit(1 if report.findings else 0)


def _text(report: Report) -> str:
    looked_at = f"{report.routes} routes, {report.tables} tenant tables, {report.files} files"
    if report.findings:
        lines = [str(finding) for finding in report.findings]
        return "\n".join([*lines, f"{len(lines)} found in {looked_at}."])
    return f"Every way to tenants' rows is declared: {looked_at}."
