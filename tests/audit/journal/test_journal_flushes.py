"""The order of a journal's system calls: what is promised was flushed before, and so were the
names of the files that it is in. A process that is killed loses nothing without; a machine does."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.audit.journal.system_calls import SystemCall, trace_journal

FLUSHES = ("fsync", "fdatasync")
OUTCOMES = {"acknowledged": "served", "begun": "interrupted"}
"""How an event stands in the file of which the journal says one or the other."""


@dataclass(frozen=True)
class Promise:
    """That an event is on disk."""

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
    """The first openings of the files that whoever adopts a journal has to find."""
    for call in calls:
        if call.name == "openat" and "O_CREAT" in call.arguments and call.succeeded:
            yield call


def promises(calls: Sequence[SystemCall]) -> list[Promise]:
    said = [
        (call, re.search(r'"(acknowledged|begun) ([0-9a-f-]{36})\\n"', call.arguments))
        for call in calls
        if call.name == "write" and call.path.name == "said"
    ]
    return [Promise(found[2], OUTCOMES[found[1]], call.began) for call, found in said if found]


def rows_of(promise: Promise, calls: Sequence[SystemCall]) -> list[SystemCall]:
    """Where its row was written before it was given."""
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
    """By an fsync of the journal's own: SQLite may be built to leave out its own of directories."""
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


def test_what_is_folded_into_a_file_is_flushed_before_it_is_overwritten_where_it_was(
    calls: list[SystemCall],
) -> None:
    """A log that begins anew has lost what it had before."""
    begun_anew = [
        call
        for call in calls
        if call.name == "pwrite64"
        and call.path.name.endswith("-wal")
        and call.arguments.endswith(", 32, 0")
    ]
    assert len(begun_anew) > len(new_files(calls))
    for anew in begun_anew:
        file = anew.path.with_name(anew.path.name.removesuffix("-wal"))
        folded = [
            call.ended
            for call in calls
            if call.name == "pwrite64" and call.path == file and call.ended < anew.began
        ]
        assert folded
        assert is_flushed(calls, file, folded[-1], anew.began)
