"""`scope-lint-exceptions.toml`: known breaches, counted. The list may only shrink."""

import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from webapp.scope.lint.finding import LintFinding

FILE = "scope-lint-exceptions.toml"
RULE = "exceptions"

Key = tuple[str, str]
"""A file and a rule."""


@dataclass(frozen=True)
class ExceptionEntry:
    file: str
    rule: str
    count: int
    reason: str


class ExceptionsError(ValueError):
    """The list cannot be read, or an entry is incomplete."""


def parse_exceptions(content: str) -> dict[Key, ExceptionEntry]:
    """The entries by file and rule; raises `ExceptionsError`."""
    try:
        raw = tomllib.loads(content).get("exception", [])
        entries = [ExceptionEntry(**item) for item in raw]
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise ExceptionsError(str(error)) from error
    for entry in entries:
        if type(entry.count) is not int or entry.count < 1:
            raise ExceptionsError(f"{entry.file} {entry.rule}: count must be 1 or more")
        if not isinstance(entry.reason, str) or not entry.reason.strip():
            raise ExceptionsError(f"{entry.file} {entry.rule}: give a reason")
    listed = {(entry.file, entry.rule): entry for entry in entries}
    if len(listed) != len(entries):
        raise ExceptionsError("a file and rule are listed twice")
    return listed


def apply_exceptions(
    findings: Iterable[LintFinding], listed: Mapping[Key, ExceptionEntry]
) -> list[LintFinding]:
    """Return the findings that the list does not cover.

    If a file has more findings of a rule than listed, all of them remain. An entry with a wrong
    count is a finding itself.
    """
    findings = list(findings)
    counts = Counter((finding.subject, finding.rule) for finding in findings)
    allowed = {key: entry.count for key, entry in listed.items()}
    remaining = [
        finding
        for finding in findings
        if counts[key := (finding.subject, finding.rule)] > allowed.get(key, 0)
    ]
    wrong = sorted(key for key in listed if counts[key] != allowed[key])
    return remaining + [_miscount(listed[key], counts[key]) for key in wrong]


def _miscount(entry: ExceptionEntry, count: int) -> LintFinding:
    name = f"{entry.file} {entry.rule}"
    if count > entry.count:
        message = f"{name}: {count} where {entry.count} are listed; the list may only shrink"
    elif count:
        message = f"{name}: only {count} are left; lower the count from {entry.count}"
    else:
        message = f"{name}: none is left; remove the entry"
    return LintFinding(FILE, None, RULE, message)


def check_growth(
    listed: Mapping[Key, ExceptionEntry], before: Mapping[Key, ExceptionEntry]
) -> list[LintFinding]:
    """Find entries that are new, or higher than in the committed list."""
    return [
        LintFinding(FILE, None, RULE, f"{entry.file} {entry.rule}: {entry.count} where {old} stood")
        for key, entry in sorted(listed.items())
        if entry.count > (old := before[key].count if key in before else 0)
    ]


def read_committed(root: Path) -> str | None:
    """Read the list of git's HEAD; `None` where there is no git, no commit or no such file."""
    try:
        shown = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            ["git", "show", f"HEAD:./{FILE}"],  # noqa: S607 - the git that the developer uses
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return shown.stdout if shown.returncode == 0 else None
