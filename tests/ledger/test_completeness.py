"""Tests of `flask audit verify --complete`, which names each number without an event."""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from sqlalchemy.orm import Session

from tests.audit.journal.journals import forgetting
from tests.audit.ledgers import append_events, ledger_session
from tests.audit.products import Product, numbered, own_product
from webapp.audit.event import AuditEvent
from webapp.audit.journal import ends
from webapp.audit.journal.file import Notes, adopt, list_files
from webapp.audit.journal.reader import Kept, Row, read_all
from webapp.audit.relay import drain
from webapp.ledger import completeness
from webapp.ledger.completeness import Missing


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with own_product(tmp_path_factory.mktemp("verify")) as made:
        yield made


@pytest.fixture(autouse=True)
def _empty_product(product: Product) -> Iterator[None]:
    yield
    product.empty()


def check(product: Product) -> completeness.Completeness:
    with ledger_session(product.app) as session:
        return completeness.check_completeness(session, product.journals)


def ranges(found: completeness.Completeness, journal: UUID) -> list[tuple[int, int]]:
    return [(gap.first, gap.last) for gap in found.missing if gap.journal == journal]


def delete(product: Product, *events: AuditEvent) -> None:
    ids = ", ".join(f"'{event.id}'" for event in events)
    product.tamper(f"delete from audit_events where id in ({ids})")  # noqa: S608 - UUIDs


def test_empty_ledger_is_complete(product: Product) -> None:
    done = product.run("verify", "--complete")
    assert (done.exit_code, done.output) == (
        0,
        "0 events of 0 journals: 0 missing, 0 waiting in files on this host.\n",
    )


def test_journals_without_a_gap_are_complete(product: Product) -> None:
    """The order and the times of the events make no difference."""
    events = [*numbered(uuid4(), range(20, 0, -1)), *numbered(uuid4(), range(1, 6))]
    append_events(product.app, *events)
    found = check(product)
    assert (found.journals, found.events, found.is_complete) == (2, 25, True)


@pytest.mark.slow
def test_deleted_events_are_named_with_the_requests_around_them(product: Product) -> None:
    """The gaps are at the beginning of a journal and in the middle of one."""
    one, other = numbered(uuid4(), range(1, 11)), numbered(uuid4(), range(1, 6))
    append_events(product.app, *one, *other)
    delete(product, one[3], one[4], one[7], other[0])
    done = product.start("verify", "--complete")
    assert done.returncode == 1, done.stderr
    journal, second = one[0].origin, other[0].origin
    assert journal is not None
    assert second is not None
    *lines, total = done.stdout.splitlines()
    assert set(lines) == {
        f"missing: 4 to 5 of journal {journal.journal}, after request {one[2].request.id},"
        f" before request {one[5].request.id}",
        f"missing: 8 of journal {journal.journal}, after request {one[6].request.id},"
        f" before request {one[8].request.id}",
        f"missing: 1 of journal {second.journal}, before request {other[1].request.id}",
    }
    assert total == "11 events of 2 journals: 4 missing, 0 waiting in files on this host."


def test_json_output_names_missing_events(product: Product) -> None:
    events = numbered(uuid4(), [1, 3])
    append_events(product.app, *events)
    done = product.run("verify", "--complete", "--json")
    body: Any = orjson.loads(done.stdout)
    assert done.exit_code == 1
    assert body["missing"] == [
        {
            "journal": str(events[0].origin and events[0].origin.journal),
            "first": 2,
            "last": 2,
            "after_request": events[0].request.id,
            "before_request": events[1].request.id,
        }
    ]
    assert (body["events"], body["journals"], body["waiting"]) == (2, 1, [])


def test_gap_as_wide_as_the_numbers_is_found(product: Product) -> None:
    journal = uuid4()
    append_events(product.app, *numbered(journal, [1, 2**52, 2**53 - 1]))
    product.leave(journal, *numbered(journal, [2**40, 2**40 + 1]))
    assert ranges(check(product), journal) == [
        (2, 2**40 - 1),
        (2**40 + 2, 2**52 - 1),
        (2**52 + 1, 2**53 - 2),
    ]


def test_event_that_waits_in_a_file_is_not_missing(product: Product) -> None:
    """It is listed with its request, whether the file's process lives or not."""
    journal, other = uuid4(), uuid4()
    events = numbered(journal, range(1, 10))
    append_events(product.app, *(events[n] for n in (0, 4, 6)))
    product.leave(journal, *(events[n] for n in (1, 3, 5, 8)))
    living = product.hold(other, *numbered(other, [1, 2]), finalized=False)
    found = check(product)
    living.close()
    assert [
        (gap.first, gap.last, gap.after_request, gap.before_request) for gap in found.missing
    ] == [
        (3, 3, events[1].request.id, events[3].request.id),
        (8, 8, events[6].request.id, events[8].request.id),
    ]
    waiting = [(each.seq, each.request) for each in found.waiting if each.journal == journal]
    assert waiting == [(n + 1, events[n].request.id) for n in (1, 3, 5, 8)]
    assert [each.seq for each in found.waiting if each.journal == other] == [1, 2]


def test_gap_in_a_journal_that_the_ledger_does_not_know_is_found(product: Product) -> None:
    journal = uuid4()
    rows = numbered(journal, [2, 3, 6])
    product.leave(journal, *rows)
    found = check(product)
    assert ranges(found, journal) == [(1, 1), (4, 5)]
    assert [gap.before_request for gap in found.missing] == [rows[0].request.id, rows[2].request.id]
    done = product.run("verify", "--complete")
    assert done.exit_code == 1
    for row in rows:
        assert row.request.id in done.output


def test_numbers_up_to_a_journals_end_are_missing(product: Product) -> None:
    """The database is an older one, and no file has the events any more."""
    journal, gone, whole = uuid4(), uuid4(), uuid4()
    events = numbered(journal, range(1, 11))
    append_events(product.app, *events, *numbered(whole, [1, 2]))
    product.journals.mkdir(exist_ok=True)
    ends.record(product.journals, {str(journal): 14, str(gone): 3, str(whole): 2})
    found = check(product)
    assert (ranges(found, journal), ranges(found, gone)) == ([(11, 14)], [(1, 3)])
    assert ranges(found, whole) == []
    done = product.run("verify", "--complete")
    assert done.exit_code == 1
    assert (
        f"missing: 11 to 14 of journal {journal}, after request {events[-1].request.id},"
        f" up to its end\nmissing: 1 to 3 of journal {gone}, up to its end\n"
    ) in done.output
    assert "12 events of 2 journals: 7 missing," in done.output


def test_kept_event_that_the_ledger_lacks_waits_and_the_rest_is_missing(product: Product) -> None:
    """The file keeps the last of the events that an older database lacks."""
    journal = uuid4()
    events = numbered(journal, range(1, 6))
    append_events(product.app, events[0])
    file = product.hold(journal, *events)
    rows = [Kept(place, place, 0.0, "history") for place in range(1, 6)]
    file.note([Notes(kept=rows), Notes(forgotten=rows[:3])])
    file.close()
    found = check(product)
    assert ranges(found, journal) == [(2, 3)]
    assert [each.seq for each in found.waiting] == [4, 5]
    assert product.run("drain").exit_code == 0
    assert ranges(check(product), journal) == [(2, 3)]
    assert check(product).waiting == ()


def test_ends_that_cannot_be_read_are_named(product: Product) -> None:
    product.journals.mkdir(exist_ok=True)
    (product.journals / ends.NAME).write_bytes(b"no database" * 1000)
    assert check(product).unreadable == (ends.NAME,)


def test_verify_succeeds_when_events_only_wait_in_files(product: Product) -> None:
    journal = uuid4()
    (event,) = numbered(journal, [1])
    product.leave(journal, event)
    done = product.run("verify", "--complete")
    assert done.exit_code == 0
    for word in (str(event.id), event.request.id, event.actor.email, event.surface, "served"):
        assert word in done.output


def test_row_that_is_in_the_ledger_too_is_not_waiting(product: Product) -> None:
    """The relay does not know yet that the ledger has the event."""
    journal = uuid4()
    events = numbered(journal, [1, 2])
    append_events(product.app, events[0])
    product.leave(journal, *events)
    assert [each.seq for each in check(product).waiting] == [2]


def test_event_that_another_journals_file_holds_is_not_missing(product: Product) -> None:
    """An event keeps its number when it ends in another file, after a disk failure."""
    journal, other = uuid4(), uuid4()
    append_events(product.app, *numbered(journal, [1, 3]))
    product.leave(other, *numbered(journal, [2]))
    assert check(product).missing == ()


@pytest.mark.parametrize("finalized", [True, False])
def test_events_that_move_to_the_ledger_during_the_check_are_not_missing(
    product: Product, monkeypatch: pytest.MonkeyPatch, *, finalized: bool
) -> None:
    """One event moves from a file to the ledger between the two readings.

    Other accesses begin and end between them.
    """
    journal = uuid4()
    first, waits, third, late, later = numbered(journal, range(1, 6))
    append_events(product.app, first, third)
    file = product.hold(journal, waits, finalized=finalized)
    read_files = completeness._read_files

    def during_the_check(session: Session, directory: Any) -> Any:
        append_events(product.app, waits, later)
        file.note_now(forgetting([1]))
        file.write([product._row(2, late, finalized=False)], durable=False)
        return read_files(session, directory)

    monkeypatch.setattr(completeness, "_read_files", during_the_check)
    found = check(product)
    file.close()
    assert found.missing == ()
    assert [each.seq for each in found.waiting] == [late.origin and late.origin.seq]


def test_access_that_begins_before_the_ledger_is_read_is_not_missing(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next event is committed already, but this one is in its file only."""
    journal = uuid4()
    first, begun, after = numbered(journal, range(1, 4))
    append_events(product.app, first)
    file = product.hold(journal)
    read_ledger = completeness._read_ledger

    def during_the_check(session: Session) -> Any:
        file.write([product._row(1, begun, finalized=False)], durable=False)
        append_events(product.app, after)
        return read_ledger(session)

    monkeypatch.setattr(completeness, "_read_ledger", during_the_check)
    found = check(product)
    file.close()
    assert found.missing == ()


def test_file_that_is_removed_during_the_check_is_no_problem(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file goes after it was listed, and another one after it was opened."""
    gone = product.leave(uuid4(), *numbered(uuid4(), [1]))
    going = product.leave(uuid4(), *numbered(uuid4(), [1]))
    listed = list_files(product.journals)
    gone.unlink()

    def read(path: Path) -> list[Row]:
        if path != going:
            return read_all(path)
        path.unlink()
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(completeness, "list_files", lambda _: listed)
    monkeypatch.setattr(completeness, "read_all", read)
    found = check(product)
    assert (found.unreadable, found.waiting) == ((), ())


@pytest.mark.parametrize("content", [b"not a journal" * 1000, b"SQLite format 3\x00" + b"x" * 5000])
def test_damaged_file_is_named_and_the_rest_is_read(product: Product, content: bytes) -> None:
    journal = uuid4()
    product.leave(journal, *numbered(journal, [1]))
    damaged = product.journals / f"{uuid4()}.journal"
    damaged.write_bytes(content)
    found = check(product)
    assert found.unreadable == (damaged.name,)
    assert len(found.waiting) == 1
    done = product.run("verify", "--complete")
    assert done.exit_code == 1
    assert f"cannot be read: {damaged.name}" in done.output


def test_damaged_row_is_named(product: Product) -> None:
    journal = uuid4()
    good, bad = numbered(journal, [1, 2])
    file = product.hold(journal, good)
    row = product._row(2, bad, finalized=True)
    damaged = Row(2, str(bad.id), True, row.event[:-7] + b"garbage", row.signature)
    file.write([damaged], durable=False)
    file.close()
    found = check(product)
    assert found.unreadable == (f"row 2, event {bad.id}",)
    assert [each.seq for each in found.waiting] == [1]


def test_row_with_a_wrong_signature_is_named_and_does_not_wait(product: Product) -> None:
    journal = uuid4()
    good, bad = numbered(journal, [1, 2])
    file = product.hold(journal, good)
    row = product._row(2, bad, finalized=True)
    file.write(
        [Row(2, str(bad.id), True, row.event, product._row(1, good, finalized=True).signature)],
        durable=False,
    )
    file.close()
    found = check(product)
    assert found.forged == (f"row 2, event {bad.id}",)
    assert [each.seq for each in found.waiting] == [1]
    assert (found.unreadable, found.is_complete) == ((), False)
    done = product.run("verify", "--complete")
    assert done.exit_code == 1
    assert f"wrong signature: row 2, event {bad.id}" in done.output


def test_events_that_no_running_process_holds_are_counted(product: Product) -> None:
    dead, living = uuid4(), uuid4()
    product.leave(dead, *numbered(dead, [1, 2]))
    held = product.hold(living, *numbered(living, [1]))
    try:
        assert (check(product).ownerless, len(check(product).waiting)) == (2, 3)
    finally:
        held.close()


@pytest.mark.parametrize("ending", ["", "-wal"])
def test_file_that_is_a_link_is_not_followed(product: Product, tmp_path: Path, ending: str) -> None:
    journal = uuid4()
    path = product.leave(journal, *numbered(journal, [1]))
    elsewhere = tmp_path / "elsewhere"
    if not ending:
        path.rename(elsewhere)
    link = path.with_name(path.name + ending)
    link.symlink_to(elsewhere)
    before = elsewhere.read_bytes() if elsewhere.exists() else None
    found = check(product)
    assert (found.unreadable, found.waiting) == ((path.name,), ())
    assert drain.count_left(product.journals).unreadable == (path.name,)
    with pytest.raises(sqlite3.OperationalError, match="link"):
        adopt(path, 2**24)
    assert (elsewhere.read_bytes() if elsewhere.exists() else None) == before
    link.unlink()


def test_lock_that_is_a_link_is_not_followed(product: Product, tmp_path: Path) -> None:
    journal = uuid4()
    path = product.leave(journal, *numbered(journal, [1]))
    path.with_suffix(".lock").unlink(missing_ok=True)
    path.with_suffix(".lock").symlink_to(tmp_path / "made")
    with pytest.raises(OSError, match="symbolic"):
        adopt(path, 2**24)
    assert not (tmp_path / "made").exists()


def subtract(gaps: Sequence[tuple[int, int]], known: Sequence[int]) -> list[tuple[int, int]]:
    journal = UUID(int=1)
    missing = [Missing(journal, first, last, None, "b") for first, last in gaps]
    left = completeness._without(missing, {journal: dict.fromkeys(known, "k")})
    return [(gap.first, gap.last) for gap in left]


@pytest.mark.parametrize(
    ("known", "left"),
    [
        ([], [(3, 6), (8, 8)]),
        ([3], [(4, 6), (8, 8)]),
        ([6], [(3, 5), (8, 8)]),
        ([4, 5], [(3, 3), (6, 6), (8, 8)]),
        ([1, 2, 7, 9], [(3, 6), (8, 8)]),
        ([3, 4, 5, 6, 8], []),
    ],
)
def test_known_numbers_are_subtracted_from_gaps(
    known: list[int], left: list[tuple[int, int]]
) -> None:
    assert subtract([(3, 6), (8, 8)], known) == left
