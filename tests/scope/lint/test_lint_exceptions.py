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


def test_as_many_as_listed_are_tolerated() -> None:
    assert apply_exceptions(found(2), listed(2)) == []


def test_one_more_shows_them_all() -> None:
    *shown, miscount = apply_exceptions(found(3), listed(2))
    assert shown == found(3)
    assert "3 where 2 are listed" in miscount.message


def test_one_fewer_asks_for_the_count_to_be_lowered() -> None:
    (miscount,) = apply_exceptions(found(1), listed(2))
    assert miscount.subject == FILE
    assert "lower the count from 2" in miscount.message


def test_a_stale_entry_is_found() -> None:
    (miscount,) = apply_exceptions([], listed(1))
    assert "remove the entry" in miscount.message


def test_other_files_and_rules_are_not_covered() -> None:
    others = [
        LintFinding("webapp/b.py", 1, "commit", ""),
        LintFinding("webapp/a.py", 1, "bulk", ""),
    ]
    assert apply_exceptions([*found(1), *others], listed(1)) == others


@pytest.mark.parametrize(("before", "after", "findings"), [(2, 2, 0), (2, 1, 0), (1, 2, 1)])
def test_a_count_may_not_grow(before: int, after: int, findings: int) -> None:
    assert len(check_growth(listed(after), listed(before))) == findings


def test_an_entry_may_not_be_added_but_removed() -> None:
    assert len(check_growth(listed(1), {})) == 1
    assert check_growth({}, listed(1)) == []


def test_an_entry_says_everything() -> None:
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
def test_an_entry_that_says_less_or_more_is_refused(content: str) -> None:
    with pytest.raises(ExceptionsError):
        parse_exceptions(content)


def test_what_was_committed_is_read_from_git(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert read_committed(tmp_path) is None
    (tmp_path / FILE).write_text("# one\n")
    git(tmp_path, "add", FILE)
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "one")
    (tmp_path / FILE).write_text("# two\n")
    assert read_committed(tmp_path) == "# one\n"


def test_without_git_there_is_nothing_to_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_committed(tmp_path) is None


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)
