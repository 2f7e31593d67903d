"""`flask scope`: checks that every way to a tenant's rows is declared, guarded and recorded."""

import sys

from flask import current_app

from webapp.commands import Commands, as_json, print_json, say
from webapp.scope.lint import Report, lint

group = Commands(
    "scope", help="Prove that no way leads around the tenants' scopes, which keep their rows apart."
)


@group.command("lint")
@as_json
def lint_command(*, as_json: bool) -> None:
    """Check every route, command, table and source file; exit 1 when anything is found."""
    report = lint(current_app)
    if as_json:
        print_json(report)
    else:
        say(_text(report))
    sys.exit(1 if report.findings else 0)


def _text(report: Report) -> str:
    checked = (
        f"{report.routes} routes, {report.commands} commands, {report.tables} tenant tables,"
        f" {report.files} files"
    )
    if report.findings:
        lines = [str(finding) for finding in report.findings]
        return "\n".join([*lines, f"{len(lines)} found in {checked}."])
    return f"Every way to tenants' rows is declared: {checked}."
