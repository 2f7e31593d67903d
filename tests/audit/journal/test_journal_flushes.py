"""Tests of the order of a journal's system calls: data and file names are flushed before a promise.

Without these flushes a killed process would lose nothing, but a failing machine would.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.audit.journal.system_calls import SystemCall, trace_journal

FLUSHES = ("fsync", "fdatasync")
OUTCOMES = {"acknowledged": "served", "begun": "interrupted"}
"""The outcome in the file of an event about which the journal has made one of these promises."""


@dataclass(frozen=True)
class Promise:
    """A journal's promise that an event is on disk."""

    event_id: str
    outcome: str
    began: int


@pytest.fixture(
    scope="module",
    params=[None, "fdatasync:error=EIO:when=9"],
    ids=["one file", "two files, as the disk failed once"],
)
def calls(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[SystemCall]:
    calls = trace_journal(tmp_path_factory.mktemp("home") / "journal", request.param)
    assert len(set(new_files(calls))) == (1 if request.param is None else 2)
    return calls


def new_files(calls: Sequence[SystemCall]) -> list[Path]:
    return [call.path for call in created(calls) if call.path.suffix == ".journal"]


def created(calls: Sequence[SystemCall]) -> Iterator[SystemCall]:
    """Yield the calls that create the files which an adopting process has to find."""
    for call in calls:
        if call.name == "openat" and "O_CREAT" in call.arguments and call.succeeded:
            yield call


def promises(calls: Sequence[SystemCall]) -> list[Promise]:
    lines = [
        (call, re.search(r'"(acknowledged|begun) ([0-9a-f-]{36})\\n"', call.arguments))
        for call in calls
        if call.name == "write" and call.path.name == "report"
    ]
    return [Promise(found[2], OUTCOMES[found[1]], call.began) for call, found in lines if found]


def rows_of(promise: Promise, calls: Sequence[SystemCall]) -> list[SystemCall]:
    """Return the writes of the promised row that came before the promise."""
    row = re.compile(
        rf'\\"id\\":\\"{promise.event_id}\\".{{0,1000}}?\\"outcome\\":\\"{promise.outcome}\\"'
    )
    return [
        call
        for call in calls
        if call.name == "pwrite64"
        and call.path.name.endswith("-wal")
        and call.ended < promise.began
        and row.search(call.arguments)
    ]


def is_flushed(
    calls: Sequence[SystemCall],
    path: Path,
    after: int,
    before: int,
    flushes: Sequence[str] = FLUSHES,
) -> bool:
    return any(
        call.name in flushes
        and call.path == path
        and call.succeeded
        and after < call.began
        and call.ended < before
        for call in calls
    )


@pytest.mark.slow(seconds=1)
def test_row_is_flushed_before_it_is_acknowledged(calls: list[SystemCall]) -> None:
    given = promises(calls)
    assert {promise.outcome for promise in given} == set(OUTCOMES.values())
    for promise in given:
        rows = rows_of(promise, calls)
        assert rows, promise
        assert any(is_flushed(calls, row.path, row.ended, promise.began) for row in rows), promise


def test_name_of_a_new_file_is_flushed_before_anything_in_it_is_acknowledged(
    calls: list[SystemCall],
) -> None:
    """The journal does this fsync itself, since SQLite can be built without that of directories."""
    given = promises(calls)
    for path in new_files(calls):
        (creation,) = (call for call in created(calls) if call.path == path)
        first = next(
            promise.began
            for promise in given
            if any(
                row.path == path.with_name(f"{path.name}-wal") for row in rows_of(promise, calls)
            )
        )
        assert is_flushed(calls, path.parent, creation.ended, first, ["fsync"])


def test_name_of_a_new_directory_is_flushed_before_anything_in_it_is_acknowledged(
    calls: list[SystemCall],
) -> None:
    (made,) = (call for call in calls if call.name == "mkdir")
    first = promises(calls)[0].began
    assert is_flushed(calls, made.path.parent, made.ended, first, ["fsync"])


def test_checkpointed_pages_are_flushed_before_the_log_is_overwritten(
    calls: list[SystemCall],
) -> None:
    """A log that starts again at its beginning overwrites what it held before."""
    overwritten = [
        call
        for call in calls
        if call.name == "pwrite64"
        and call.path.name.endswith("-wal")
        and call.arguments.endswith(", 32, 0")
    ]
    assert len(overwritten) > len(new_files(calls))
    for overwrite in overwritten:
        file = overwrite.path.with_name(overwrite.path.name.removesuffix("-wal"))
        copied = [
            call.ended
            for call in calls
            if call.name == "pwrite64" and call.path == file and call.ended < overwrite.began
        ]
        assert copied
        assert is_flushed(calls, file, copied[-1], overwrite.began)
