"""A relay with a stand-in for the ledger that it brings events to."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from tests.audit.events import make_event
from tests.audit.journal.journals import MAX_BYTES, PATIENCE, journal_in
from webapp.audit.append import Confirmation
from webapp.audit.event import AuditEvent, EventError, dump_event, event_key, load_event
from webapp.audit.journal.service import Journal
from webapp.audit.relay.relay import Delivery, Relay


class Ledger:
    """A stand-in for the workers and the database, whose faults a test sets."""

    def __init__(self) -> None:
        self.events: dict[UUID, AuditEvent] = {}
        self.refused: list[str] = []
        self.kept: set[str] = set()
        """The keys of events that are kept beside the ledger."""
        self.history = "first"
        self.deliveries = 0
        self.sets: list[str] = []
        self.takes: Callable[[UUID], bool] = lambda event_id: True
        self.drops: Callable[[Delivery], bool] = lambda batch: False
        """Whether a delivery is lost as a whole, as one is of which each worker dies."""
        self.before_send: Callable[[], object] = lambda: None
        self.before_answer: Callable[[], object] = lambda: None

    def send(self, batch: Delivery) -> None:
        self.before_send()
        self.deliveries += 1
        if self.drops(batch):
            return
        for text, *signature in batch:
            if not signature:
                self.sets.append(text)
                continue
            try:
                event = load_event(text.encode())
            except EventError:
                self.refused.append(text)
                continue
            if self.takes(event.id):
                self.events.setdefault(event.id, event)

    def confirm(self, keys: Sequence[str]) -> Confirmation:
        self.before_answer()
        asked = (self.events.get(UUID(key.partition(":")[0])) for key in keys)
        in_ledger = {event_key(event.id, dump_event(event)) for event in asked if event}
        return Confirmation((in_ledger | self.kept) & set(keys), self.history)


def refuse() -> None:
    raise ConnectionError("refused")


@contextmanager
def running_relay(
    directory: Path, ledger: Ledger, max_bytes: int = MAX_BYTES, keep: float = 0.0
) -> Iterator[Journal]:
    with journal_in(directory, max_bytes) as journal:
        relay = Relay(journal, ledger.send, ledger.confirm, keep)
        relay.start()
        yield journal
        relay.drain(PATIENCE)


def finalize(journal: Journal, **changes: object) -> UUID:
    event = make_event(**changes)
    journal.finalize([event], PATIENCE)
    return event.id
