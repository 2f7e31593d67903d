"""One journal file on its way to the ledger: what of it was sent, and what is to be sent again."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from webapp.audit.journal_file import JournalReader, Row

BATCH = 500
"""Events in one task."""

AHEAD = 10_000
"""Events of one file that were sent and are not known to be committed; more wait in it."""

RESEND = 10.0
"""Seconds after which what is not in the ledger is sent again, doubled each time up to RESEND_MAX:
it may still be in the broker, where it waits for a worker, and a second copy would only be one."""

RESEND_MAX = 300.0
QUESTION = 2000
"""Ids in one question to the ledger."""

FindCommitted = Callable[[Sequence[UUID]], set[UUID]]


@dataclass(frozen=True)
class _Sent:
    id: UUID
    again_at: float
    wait: float


class Outbox:
    """Sends and asks nobody itself. For one thread."""

    def __init__(self, file: JournalReader, forget: Callable[[Sequence[int]], None]) -> None:
        self.file = file
        self._forget = forget
        self._sent: OrderedDict[int, _Sent] = OrderedDict()
        self._last = 0

    def take(self, now: float) -> list[Row]:
        """The next batch to be sent: what has waited long enough first, then what is new."""
        due = [place for place, sent in self._sent.items() if sent.again_at <= now][:BATCH]
        if not due:
            return self.file.read_settled(self._last, min(BATCH, AHEAD - len(self._sent)))
        rows = self.file.read(due)
        for place in set(due) - {row.place for row in rows}:
            del self._sent[place]
        return rows

    def note_sent(self, rows: Sequence[Row], now: float) -> None:
        for row in rows:
            before = self._sent.get(row.place)
            wait = min(2 * before.wait, RESEND_MAX) if before else RESEND
            self._sent[row.place] = _Sent(row.id, now + wait, wait)
            self._last = max(self._last, row.place)

    def ask(self, find_committed: FindCommitted) -> None:
        """Forget what the ledger has. The first question that it answers with nothing is the last,
        and what that was about comes up after all the others."""
        places = list(self._sent)
        for start in range(0, len(places), QUESTION):
            asked = {place: self._sent[place].id for place in places[start : start + QUESTION]}
            committed = find_committed(list(asked.values()))
            done = [place for place, event_id in asked.items() if event_id in committed]
            if done:
                self._forget(done)
            for place in done:
                del self._sent[place]
            for place in asked.keys() & self._sent.keys():
                self._sent.move_to_end(place)
            if not done:
                break
