"""Tests of the outbox: which rows of a file are sent, sent again, asked about and forgotten."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from tests.audit.journal.journals import MAX_BYTES
from webapp.audit.append import Confirmation
from webapp.audit.journal.file import create
from webapp.audit.journal.reader import Row
from webapp.audit.relay.outbox import (
    AHEAD,
    BATCH,
    BATCH_BYTES,
    RESEND,
    RESEND_MAX,
    STUCK_MAX,
    Outbox,
)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    file = create(tmp_path, uuid4(), MAX_BYTES)
    file.write(
        [Row(place, str(uuid4()), True, b"{}", "") for place in range(1, AHEAD + 1002)],
        durable=False,
    )
    yield Outbox(file, file.note_now)
    file.close()


def places(rows: Sequence[Row]) -> list[int]:
    return [row.place for row in rows]


def test_outbox_sends_no_more_than_its_limit_of_uncommitted_events(box: Outbox) -> None:
    sent = 0
    while rows := box.take(0.0):
        assert len(rows) <= BATCH
        box.note_sent(rows, 0.0)
        sent += len(rows)
    assert sent == AHEAD


def test_event_is_sent_again_after_growing_waits(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.audit.relay.outbox.RESEND", RESEND)
    box.file.write(forgotten=range(2, AHEAD + 2000), durable=False)  # type: ignore[attr-defined]  # a JournalFile
    now, waits = 0.0, []
    for _ in range(8):
        rows = box.take(now)
        assert places(rows) == [1]
        box.note_sent(rows, now)
        wait = 0.0
        while not box.take(now + wait):
            wait += RESEND
        waits.append(wait)
        now += wait
    assert waits == [10, 20, 40, 80, 160, RESEND_MAX, RESEND_MAX, RESEND_MAX]


class Way:
    """A journal's way to the ledger that drops each batch with one of some events in it."""

    def __init__(self, directory: Path, rows: int, poison: Sequence[int], ahead: float) -> None:
        self.file = create(directory, uuid4(), MAX_BYTES)
        self.box = Outbox(self.file, self.file.note_now, ahead)
        self.now = 0.0
        self.dropped: list[list[int]] = []
        self._poison = set(poison)
        self._arrived: set[str] = set()
        self._rows = 0
        self.add(rows)

    def add(self, rows: int) -> None:
        new = range(self._rows + 1, self._rows + rows + 1)
        self.file.write([Row(n, str(uuid4()), True, b"{}", "") for n in new], durable=False)
        self._rows += rows

    @property
    def arrived(self) -> int:
        return len(self._arrived)

    def send(self) -> None:
        """Send what is to be sent now, and have the ledger asked about it."""
        while rows := self.box.take(self.now):
            if self._poison.isdisjoint(places(rows)):
                self._arrived |= {row.key for row in rows}
            else:
                self.dropped.append(places(rows))
            self.box.note_sent(rows, self.now)
        self.box.ask(lambda keys: Confirmation(self._arrived.intersection(keys), "history"))

    def overtake(self) -> None:
        """Send a new event, which arrives after all that were sent before."""
        self.add(1)
        self.send()

    def send_until_dropped(self, rows: int) -> float:
        """Send, and overtake each time, until a batch of so many rows is dropped.

        Returns after how many seconds that was.
        """
        began, before = self.now, len(self.dropped)
        while not any(len(dropped) == rows for dropped in self.dropped[before:]):
            assert self.now - began <= STUCK_MAX
            self.now += RESEND
            self.send()
            self.overtake()
        return self.now - began


def test_batch_that_is_dropped_is_halved_down_to_the_event_at_fault(tmp_path: Path) -> None:
    way = Way(tmp_path, BATCH, poison=[200], ahead=AHEAD)
    way.send()
    way.overtake()
    way.send_until_dropped(rows=1)
    assert [len(dropped) for dropped in way.dropped] == [500, 250, 125, 63, 31, 15, 8, 4, 2, 1]
    assert way.arrived == way._rows - 1


def test_batch_is_not_halved_while_nothing_that_was_sent_later_arrives(tmp_path: Path) -> None:
    way = Way(tmp_path, BATCH, poison=[200], ahead=AHEAD)
    for _ in range(8):
        way.send()
        way.now += RESEND_MAX
    assert way.dropped == [list(range(1, BATCH + 1))] * 8


def test_stuck_event_is_sent_ever_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.audit.relay.outbox.STUCK_MAX", 1000.0)
    way = Way(tmp_path, 1, poison=[1], ahead=AHEAD)
    way.send()
    waits = [way.send_until_dropped(rows=1) for _ in range(9)]
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1000, 1000]
    assert way.box.stuck == 1


def test_event_is_stuck_only_once_it_was_overtaken_three_times(tmp_path: Path) -> None:
    way = Way(tmp_path, 1, poison=[1], ahead=AHEAD)
    way.send()
    way.overtake()
    stuck = []
    for _ in range(4):
        stuck.append(way.box.stuck)
        way.send_until_dropped(rows=1)
    assert stuck == [0, 0, 0, 1]


def test_stuck_events_leave_room_for_others(tmp_path: Path) -> None:
    """As many as may be sent at once are at fault, and each one is found and left behind."""
    way = Way(tmp_path, 20, poison=range(1, 11), ahead=10)
    while way.box.stuck < 10:
        assert len(way.dropped) < 200
        way.now += RESEND_MAX
        way.send()
    assert way.arrived == 10


def test_event_that_was_stuck_and_arrives_is_sent_no_more(tmp_path: Path) -> None:
    way = Way(tmp_path, 1, poison=[1], ahead=AHEAD)
    way.send()
    while not way.box.stuck:
        way.send_until_dropped(rows=1)
    way._poison.clear()
    way.now += STUCK_MAX
    way.send()
    assert (way.box.stuck, way.arrived) == (0, way._rows)


def test_rows_that_are_gone_are_not_sent_again(box: Outbox) -> None:
    box.note_sent(box.take(0.0), 0.0)
    box.file.write(forgotten=range(1, BATCH), durable=False)  # type: ignore[attr-defined]  # a JournalFile
    assert places(box.take(10.0)) == [BATCH]
    box.note_sent(box.take(10.0), 10.0)
    assert places(box.take(10.0)) == list(range(BATCH + 1, 2 * BATCH + 1))


def test_every_sent_event_is_asked_about_even_if_none_is_committed(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One query does not ask about all of them while the workers are gone."""
    monkeypatch.setattr("webapp.audit.relay.outbox.QUERY_KEYS", BATCH)
    while rows := box.take(0.0):
        box.note_sent(rows, 0.0)
    queried = Counter[str]()
    queries = 0

    def confirm(keys: Sequence[str]) -> Confirmation:
        nonlocal queries
        queries += 1
        queried.update(keys)
        return Confirmation(set(), "history")

    for _ in range(AHEAD // BATCH):
        box.ask(confirm)
    assert queries == AHEAD // BATCH
    assert len(queried) == AHEAD
    box.ask(lambda keys: Confirmation(set(keys), "history"))
    assert len(box.take(0.0)) == BATCH


def test_batch_has_so_many_bytes_and_one_event_at_least(tmp_path: Path) -> None:
    file = create(tmp_path, uuid4(), MAX_BYTES)
    sizes = [BATCH_BYTES // 2, BATCH_BYTES // 2, 1, BATCH_BYTES + 1, 1]
    rows = [Row(n, str(uuid4()), True, b"e" * size, "") for n, size in enumerate(sizes, 1)]
    file.write(rows, durable=False)
    box = Outbox(file, file.note_now)
    sent = []
    while rows := box.take(0.0):
        sent.append(places(rows))
        box.note_sent(rows, 0.0)
    assert sent == [[1, 2], [3], [4], [5]]
    file.close()


def test_due_events_beyond_one_batch_are_sent_by_the_next(tmp_path: Path) -> None:
    file = create(tmp_path, uuid4(), MAX_BYTES)
    for place in range(1, 5):
        file.write([Row(place, str(uuid4()), True, b"e" * BATCH_BYTES, "")], durable=False)
    box = Outbox(file, file.note_now)
    while rows := box.take(0.0):
        box.note_sent(rows, 0.0)
    again = []
    while rows := box.take(RESEND):
        again.append(places(rows))
        box.note_sent(rows, RESEND)
    assert again == [[1], [2], [3], [4]]
    file.close()
