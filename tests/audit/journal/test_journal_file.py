"""Tests of a journal's file: its lock, its transactions, its adoption and its removal."""

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from uuid import UUID, uuid4

import pytest

from tests.audit.journal.journals import MAX_BYTES, forgetting, hanging_disk, line_of, script
from webapp.audit.journal.file import JournalFile, Locked, adopt, create, list_files
from webapp.audit.journal.reader import JournalReader, Row, read_all

BIG = b"x" * 900


def row(place: int, *, finalized: bool = True, event: bytes = BIG) -> Row:
    return Row(place, str(uuid4()), finalized, event, "signature")


def put(file: JournalFile, *rows: Row) -> None:
    file.write(rows, durable=True)


def fill(file: JournalFile, after: int) -> list[int]:
    """Put rows into the places after a place until the file is full; return the places filled."""
    for place in range(after + 1, after + 1000):
        try:
            put(file, row(place))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            return list(range(after + 1, place))
    raise AssertionError("the file is never full")


def places(file: JournalReader) -> list[int]:
    return [row.place for row in file.read_finalized(0, 10**6)]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def file(tmp_path: Path) -> JournalFile:
    return create(tmp_path / "journal", uuid4(), MAX_BYTES)


def test_adopted_file_has_the_rows_that_were_put(file: JournalFile) -> None:
    rows = [row(1), row(2, finalized=False), row(3)]
    put(file, *rows)
    file.close()
    adopted = adopt(file.path, MAX_BYTES)
    assert [found.id for found in adopted.read_finalized(0, 10)] == [row.id for row in rows]
    assert adopted.held == 3
    adopted.close()


def test_rows_that_have_only_begun_are_not_read_while_the_process_lives(file: JournalFile) -> None:
    put(file, row(1, finalized=False), row(2))
    assert places(file) == [2]
    assert places(JournalReader(file.path)) == [2]
    assert [row.place for row in read_all(file.path)] == [1, 2]


def test_reading_starts_after_a_place_and_keeps_to_a_limit(file: JournalFile) -> None:
    put(file, *map(row, range(1, 8)))
    assert [row.place for row in file.read_finalized(2, 3)] == [3, 4, 5]
    assert file.read_finalized(7, 3) == []
    assert [row.place for row in file.read([7, 2, 99])] == [2, 7]


def test_failed_transaction_changes_nothing(file: JournalFile) -> None:
    put(file, row(1))
    with pytest.raises(sqlite3.IntegrityError):
        file.write([row(2), row(3), row(2)], forgotten=[1], durable=True)
    assert places(file) == [1]
    assert file.held == 1


def test_files_are_readable_by_their_owner_only(file: JournalFile) -> None:
    put(file, row(1))
    directory = file.path.parent
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


def test_empty_file_is_removed_when_it_is_closed(file: JournalFile) -> None:
    put(file, row(1))
    file.write(forgotten=[1], durable=False)
    file.close()
    assert names(file.path.parent) == []


def test_file_in_use_cannot_be_adopted(file: JournalFile) -> None:
    with pytest.raises(Locked):
        adopt(file.path, MAX_BYTES)
    put(file, row(1))
    file.close()
    adopted = adopt(file.path, MAX_BYTES)
    with pytest.raises(Locked):
        adopt(file.path, MAX_BYTES)
    adopted.note_now(forgetting([1]))
    adopted.close()
    with pytest.raises(FileNotFoundError):
        adopt(file.path, MAX_BYTES)
    assert names(file.path.parent) == []


def test_file_of_a_killed_process_can_be_adopted(tmp_path: Path) -> None:
    code = """
event = make_event()
journal.finalize([event], PATIENCE)
report(event.id)
time.sleep(60)
"""
    with script(code, tmp_path) as process:
        (event_id,) = line_of(process)
        (path,) = list_files(tmp_path)
        with pytest.raises(Locked):
            adopt(path, MAX_BYTES)
        process.send_signal(signal.SIGKILL)
        process.wait()
        adopted = adopt(path, MAX_BYTES)
    assert [str(row.id) for row in adopted.read_finalized(0, 10)] == [event_id]
    adopted.close()


def test_child_process_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    """Otherwise a dead parent's events would wait until its last child has ended."""
    code = """
event = make_event()
journal.finalize([event], PATIENCE)
if os.fork() == 0:
    report(os.getpid())
    sys.stdin.read()
    os._exit(0)
time.sleep(60)
"""
    with script(code, tmp_path) as process:
        (child,) = map(int, line_of(process))
        (path,) = list_files(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        adopted = adopt(path, MAX_BYTES)
        os.kill(child, 0)
    assert adopted.held == 1
    adopted.close()


@pytest.mark.slow
def test_end_of_a_child_process_does_not_touch_its_parents_file(tmp_path: Path) -> None:
    """The child's interpreter ends in order, with a copy of what the parent has open."""
    code = """
journal.finalize([make_event()], PATIENCE)
if os.fork() == 0:
    sys.exit()
os.wait()
journal.finalize([make_event()], PATIENCE)
report("finalized")
time.sleep(60)
"""
    with script(code, tmp_path) as process:
        assert line_of(process) == ["finalized"]
        (path,) = list_files(tmp_path)
        with pytest.raises(Locked):
            adopt(path, MAX_BYTES)
        process.kill()
        process.wait()
        adopted = adopt(path, MAX_BYTES)
    assert adopted.held == 2
    adopted.close()


def test_torn_log_yields_whole_transactions_in_order(file: JournalFile, tmp_path: Path) -> None:
    """The write-ahead log is cut off at many positions."""
    for number in range(6):
        put(file, *(row(place) for place in (3 * number + 1, 3 * number + 2, 3 * number + 3)))
    written = file.path.with_name(file.path.name + "-wal").read_bytes()
    found = []
    for cut in [*range(0, len(written), 1500), len(written)]:
        torn = tmp_path / str(cut) / file.path.name
        torn.parent.mkdir()
        shutil.copy(file.path, torn)
        torn.with_name(torn.name + "-wal").write_bytes(written[:cut] + b"\xff" * 700)
        try:
            adopted = adopt(torn, MAX_BYTES)
        except FileNotFoundError:
            found.append(0)
            continue
        found.append(adopted.held)
        assert places(adopted) == list(range(1, adopted.held + 1))
        adopted.close()
    assert found == sorted(found)
    assert {held % 3 for held in found} == {0}
    assert (found[0], found[-1]) == (0, 18)


def test_file_keeps_to_its_limit_and_takes_more_once_emptied(tmp_path: Path) -> None:
    file = create(tmp_path, uuid4(), 2**17)
    for round_ in range(3):
        kept = fill(file, 1000 * round_)
        assert len(kept) > 50
        assert places(file) == kept
        file.write(forgotten=kept, durable=False)
        assert file.held == 0
    file.checkpoint()
    assert file.path.stat().st_size <= 2**17


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "no database": lambda data: b"no database" * 1000,
    "overwritten": lambda data: data[:4096] + b"\xff" * (len(data) - 4096),
    "cut off": lambda data: data[: len(data) // 2],
    "another's": lambda data: _other_database(),
    "a schema that is no text": lambda data: data.replace(
        b"tableeventsevents", b"tableev\xf3\xfftsev\xf3\xffts"
    ).replace(b"CREATE TABLE events", b"CREXTE TABLE events"),
}


def _other_database() -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table events (something)")
        connection.execute("pragma user_version = 1")
        return connection.serialize()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_file_stays_where_it_is(file: JournalFile, damage: str) -> None:
    put(file, *map(row, range(1, 200)))
    file.close()
    data = DAMAGE[damage](file.path.read_bytes())
    file.path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(sqlite3.Error):  # noqa: PT012 - either call may notice the damage
            adopted = adopt(file.path, MAX_BYTES)
            try:
                adopted.read_finalized(0, 1000)
            finally:
                adopted.close()
        assert file.path.exists()


def test_row_with_an_invalid_id_is_reported_as_damage(file: JournalFile) -> None:
    put(file, row(1))
    with sqlite3.connect(file.path) as connection:
        connection.execute("update events set id = 'x'")
    with pytest.raises(sqlite3.DatabaseError):
        file.read_finalized(0, 10)


@pytest.mark.parametrize(
    "change", ["event = 'a text'", "event = null", "mac = x'00'", "finalized = 'a text'"]
)
def test_row_with_a_value_of_another_type_is_reported_as_damage(
    tmp_path: Path, change: str
) -> None:
    path = tmp_path / f"{uuid4()}.journal"
    with sqlite3.connect(path) as connection:
        connection.execute("create table events (place, id, finalized, event, mac, excluded)")
        connection.execute("insert into events values (?, ?, ?, ?, ?, ?)", row(1))
        update = f"update events set {change}"  # noqa: S608 - a constant
        assert connection.execute(update).rowcount == 1
    with pytest.raises(sqlite3.DatabaseError):
        read_all(path)


def test_file_that_was_never_written_is_removed(tmp_path: Path) -> None:
    """Its process died after it made the file, and before it wrote to it."""
    path = tmp_path / f"{uuid4()}.journal"
    path.touch()
    with pytest.raises(FileNotFoundError):
        adopt(path, MAX_BYTES)
    assert names(tmp_path) == []


def test_reader_does_not_create_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / f"{uuid4()}.journal"
    with pytest.raises(sqlite3.OperationalError):
        JournalReader(path)
    assert read_all(path) == []
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["50% of it?", "a#b", "it's; drop"])
def test_journal_works_in_a_directory_of_any_name(tmp_path: Path, name: str) -> None:
    file = create(tmp_path / name / "deeper", uuid4(), MAX_BYTES)
    put(file, row(1))
    assert len(read_all(file.path)) == 1
    file.close()
    assert adopt(file.path, MAX_BYTES).held == 1


def test_failed_creation_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        create(tmp_path / "file" / "journal", uuid4(), MAX_BYTES)
    assert names(tmp_path) == ["file"]


def test_reader_continues_when_the_writer_closes_the_file(file: JournalFile) -> None:
    put(file, row(1))
    reader = JournalReader(file.path)
    put(file, row(2))
    file.checkpoint()
    file.close()
    adopted = adopt(file.path, MAX_BYTES)
    assert places(reader) == [1, 2]
    adopted.note_now(forgetting([1, 2]))
    adopted.close()
    assert places(reader) == []
    assert names(file.path.parent) == []


def test_adopted_file_that_cannot_be_written_is_removed_when_empty(file: JournalFile) -> None:
    """The file is removed as a whole when none of its rows is needed any more."""
    put(file, row(1), row(2))
    file.close()
    adopted = adopt(file.path, MAX_BYTES)
    with hanging_disk(adopted):
        adopted._connection.execute("pragma busy_timeout = 0")
        adopted.note_now(forgetting([1]))
        assert adopted.held == 1
        adopted.note_now(forgetting([2]))
    adopted.close()
    assert names(file.path.parent) == []


def test_full_disk_is_emptied_by_adopting_its_files(small_disk: Path) -> None:
    file = create(small_disk, uuid4(), MAX_BYTES)
    put(file, row(1))
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    kept = [1, *fill(file, 1)]
    assert places(file) == kept
    with pytest.raises((OSError, sqlite3.OperationalError)):
        create(small_disk, uuid4(), MAX_BYTES)
    file.close()
    adopted = adopt(file.path, MAX_BYTES)
    assert places(adopted) == kept
    adopted.note_now(forgetting(kept))
    adopted.close()
    assert names(small_disk) == ["ballast"]


def test_row_is_read_as_it_was_put(file: JournalFile) -> None:
    made = Row(7, str(UUID(int=7)), False, b"\x00\xff", "ab" * 32)
    put(file, made)
    assert read_all(file.path) == [made]


@pytest.mark.slow
def test_readers_of_disappearing_files_leave_nothing_behind(tmp_path: Path) -> None:
    """A few of some hundred files would leave the files that SQLite makes beside them."""
    done = Event()

    def read() -> None:
        while not done.is_set():
            for path in list_files(tmp_path):
                read_all(path)

    with ThreadPoolExecutor(3) as threads:
        reading = [threads.submit(read) for _ in range(3)]
        for _ in range(400):
            file = create(tmp_path, uuid4(), MAX_BYTES)
            put(file, row(1))
            file.note_now(forgetting([1]))
            file.close()
        done.set()
        for future in reading:
            future.result()
    assert list(tmp_path.iterdir()) == []
