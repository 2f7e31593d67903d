"""Many requests share a send; each of them knows in time whether its events were accepted."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier, Event, Thread
from typing import Any
from uuid import UUID

import orjson
import pytest

from tests.audit.events import make_event
from webapp.audit import handoff
from webapp.audit.event import has_valid_mac, load_event
from webapp.audit.handoff import HandOff, HandOffFailed, SealedEvent

KEY = b"k" * 32
PATIENCE = 30
SHORT = 0.05


class Broker:
    """Takes batches, one at a time; may be told to wait, or to refuse."""

    def __init__(self) -> None:
        self.batches: list[list[UUID]] = []
        self.began = Event()
        self.go_on = Event()
        self.go_on.set()
        self.refuse: Callable[[int], bool] = lambda number: False
        self._busy = False

    def __call__(self, batch: list[SealedEvent]) -> None:
        assert not self._busy, "two sends at a time"
        self._busy = True
        self.began.set()
        self.go_on.wait(PATIENCE)
        self._busy = False
        ids = [UUID(orjson.loads(text)["id"]) for text, _ in batch]
        self.batches.append(ids)
        if self.refuse(len(self.batches)):
            raise ConnectionError("refused")

    @property
    def ids(self) -> list[UUID]:
        return [event_id for batch in self.batches for event_id in batch]


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.go_on.set()


def one(hand_off: HandOff) -> UUID:
    event = make_event()
    hand_off.hand_off([event])
    return event.id


def test_what_is_sent_is_the_event_and_its_mac() -> None:
    sent: list[SealedEvent] = []
    events = [make_event(), make_event()]
    HandOff(sent.extend, KEY, PATIENCE).hand_off(events)
    assert [load_event(text.encode()) for text, _ in sent] == events
    assert all(has_valid_mac(text.encode(), mac, KEY) for text, mac in sent)


def test_many_threads_lose_nothing_and_double_nothing(broker: Broker) -> None:
    hand_off = HandOff(broker, KEY, PATIENCE)
    with ThreadPoolExecutor(16) as threads:
        made = list(threads.map(lambda _: one(hand_off), range(400)))
    assert Counter(broker.ids) == Counter(made)


def test_those_that_wait_share_a_send(broker: Broker) -> None:
    hand_off = HandOff(broker, KEY, PATIENCE)
    broker.go_on.clear()
    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(one, hand_off)
        assert broker.began.wait(PATIENCE)
        others = [threads.submit(one, hand_off) for _ in range(8)]
        _until(lambda: len(hand_off._waiting) == 8)
        broker.go_on.set()
        made = {future.result(PATIENCE) for future in others}
    assert broker.batches[0] == [first.result()]
    assert len(broker.batches) == 2
    assert set(broker.batches[1]) == made


def test_a_request_is_sent_whole(broker: Broker) -> None:
    """Its events are in one delivery, and so in one transaction."""
    events = [make_event() for _ in range(5)]
    HandOff(broker, KEY, PATIENCE).hand_off(events)
    assert broker.batches == [[event.id for event in events]]


def test_a_failure_reaches_each_that_it_concerns_and_nobody_else(broker: Broker) -> None:
    hand_off = HandOff(broker, KEY, PATIENCE)
    broker.refuse = lambda number: number % 2 == 0
    together = Barrier(8)

    def attempt(_: int) -> tuple[UUID, BaseException | None]:
        event = make_event()
        together.wait()
        try:
            hand_off.hand_off([event])
        except HandOffFailed as error:
            return event.id, error.__cause__
        return event.id, None

    with ThreadPoolExecutor(8) as threads:
        told = dict(threads.map(attempt, range(80)))
    assert {type(error) for error in told.values()} == {type(None), ConnectionError}
    for number, batch in enumerate(broker.batches, start=1):
        assert {told[event_id] is None for event_id in batch} == {number % 2 == 1}


def test_it_works_again_after_a_failure(broker: Broker) -> None:
    hand_off = HandOff(broker, KEY, PATIENCE)
    broker.refuse = lambda number: number == 1
    with pytest.raises(HandOffFailed):
        one(hand_off)
    assert one(hand_off) == broker.batches[1][0]


def test_a_send_that_hangs_holds_nobody(broker: Broker) -> None:
    """Every request gets its answer while the send still hangs, those behind it too."""
    hand_off = HandOff(broker, KEY, SHORT)
    broker.go_on.clear()
    with ThreadPoolExecutor(8) as threads:
        waiting: list[Future[UUID]] = [threads.submit(one, hand_off) for _ in range(24)]
        errors = [future.exception(PATIENCE) for future in waiting]
    assert all(isinstance(error, HandOffFailed) for error in errors)
    assert not broker.batches
    broker.go_on.set()


def test_who_gave_up_before_the_send_is_not_sent(broker: Broker) -> None:
    hand_off = HandOff(broker, KEY, SHORT)
    broker.go_on.clear()
    with pytest.raises(HandOffFailed):
        one(hand_off)
    with pytest.raises(HandOffFailed):
        one(hand_off)
    broker.go_on.set()
    _until(lambda: broker.batches)
    hand_off._timeout = PATIENCE
    last = one(hand_off)
    assert broker.ids[1:] == [last]


def test_who_gave_up_while_it_lingered_is_not_sent(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "LINGER", 1)
    hand_off = HandOff(broker, KEY, PATIENCE)
    broker.go_on.clear()
    with ThreadPoolExecutor(3) as threads:
        threads.submit(one, hand_off)
        assert broker.began.wait(PATIENCE)
        together = [threads.submit(one, hand_off) for _ in range(2)]
        _until(lambda: len(hand_off._waiting) == 2)
        broker.go_on.set()
        assert all(future.result(PATIENCE) for future in together)
    hand_off._timeout = SHORT
    with pytest.raises(HandOffFailed):
        one(hand_off)
    Event().wait(1)  # so that, most times, it lingered for nobody
    hand_off._timeout = PATIENCE
    last = one(hand_off)
    assert [len(batch) for batch in broker.batches] == [1, 2, 1]
    assert broker.ids[-1] == last


def test_what_cannot_be_written_is_not_waited_for(broker: Broker) -> None:
    hand_off = HandOff(broker, KEY, PATIENCE)
    with pytest.raises(TypeError):
        hand_off.hand_off([make_event(surface="\ud800")])
    assert hand_off._waiting == []
    assert one(hand_off) in broker.ids


def test_a_thread_that_ended_is_replaced(broker: Broker) -> None:
    """As after a fork, which takes over no thread but the one that forks."""
    hand_off = HandOff(broker, KEY, PATIENCE)
    ended = Thread(target=lambda: None)
    ended.start()
    ended.join()
    hand_off._thread = ended
    assert one(hand_off) in broker.ids


def _until(reached: Callable[[], Any]) -> None:
    for _ in range(PATIENCE * 100):
        if reached():
            return
        Event().wait(0.01)
    raise AssertionError
