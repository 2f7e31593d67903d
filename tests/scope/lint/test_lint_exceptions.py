"""The list of exceptions counts exactly, and only shrinks."""

import subprocess
from pathlib import Path

import pytest

from webapp.scope.lint.exceptions import (
    FILE,
    ExceptionEntry,
    ExceptionsError,
    apply_exceptions,
    check_growth,
    parse_exceptions,
    read_committed,
)
from webapp.scope.lint.finding import LintFinding

KEY = ("webapp/a.py", "commit")


def found(times: int) -> list[LintFinding]:
    return [LintFinding("webapp/a.py", line, "commit", "") for line in range(1, times + 1)]


def listed(count: int) -> dict[tuple[str, str], ExceptionEntry]:
    return {KEY: ExceptionEntry(*KEY, count, "a reason")}


def entry(count: object = 1, reason: str = "because", **more: object) -> str:
    values = {"file": "a.py", "rule": "commit", "count": count, "reason": reason, **more}
    return "\n".join(["[[exception]]", *(f"{name} = {value!r}" for name, value in values.items())])


def test_listed_findings_are_tolerated() -> None:
    assert apply_exceptions(found(2), listed(2)) == []


def test_one_finding_more_than_listed_shows_all_of_them() -> None:
    *shown, miscount = apply_exceptions(found(3), listed(2))
    assert shown == found(3)
    assert "3 where 2 are listed" in miscount.message


def test_one_finding_fewer_than_listed_asks_for_a_lower_count() -> None:
    (miscount,) = apply_exceptions(found(1), listed(2))
    assert miscount.subject == FILE
    assert "lower the count from 2" in miscount.message


def test_exception_without_findings_is_reported() -> None:
    (miscount,) = apply_exceptions([], listed(1))
    assert "remove the entry" in miscount.message


def test_exception_covers_no_other_file_or_rule() -> None:
    others = [
        LintFinding("webapp/b.py", 1, "commit", ""),
        LintFinding("webapp/a.py", 1, "bulk", ""),
    ]
    assert apply_exceptions([*found(1), *others], listed(1)) == others


@pytest.mark.parametrize(("before", "after", "findings"), [(2, 2, 0), (2, 1, 0), (1, 2, 1)])
def test_grown_count_of_exception_is_reported(before: int, after: int, findings: int) -> None:
    assert len(check_growth(listed(after), listed(before))) == findings


def test_added_exception_is_reported_and_removed_one_is_not() -> None:
    assert len(check_growth(listed(1), {})) == 1
    assert check_growth({}, listed(1)) == []


def test_complete_exception_is_parsed() -> None:
    assert parse_exceptions(entry()) == {
        ("a.py", "commit"): ExceptionEntry("a.py", "commit", 1, "because")
    }
    assert parse_exceptions("") == {}


@pytest.mark.parametrize(
    "content",
    [
        "[[exception",
        "[[exception]]\nfile = 'a.py'",
        entry(count=0),
        entry(count="1"),
        entry(reason=" "),
        entry(until="later"),
        entry() + "\n" + entry(count=2),
    ],
)
def test_incomplete_or_unknown_exception_is_refused(content: str) -> None:
    with pytest.raises(ExceptionsError):
        parse_exceptions(content)


def test_committed_exceptions_are_read_from_git(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert read_committed(tmp_path) is None
    (tmp_path / FILE).write_text("# one\n")
    git(tmp_path, "add", FILE)
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "one")
    (tmp_path / FILE).write_text("# two\n")
    assert read_committed(tmp_path) == "# one\n"


def test_committed_exceptions_without_git_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_committed(tmp_path) is None


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)
