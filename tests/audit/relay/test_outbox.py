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
from webapp.audit.relay.outbox import AHEAD, BATCH, BATCH_BYTES, RESEND, RESEND_MAX, Outbox


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
