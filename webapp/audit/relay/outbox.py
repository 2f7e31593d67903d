"""One journal file on its way to the ledger: what of it was sent, and what is to be sent again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from webapp.audit.journal.reader import JournalReader, Row

BATCH = 500
"""Events in one task."""

AHEAD = 10_000
"""Events of one file that were sent and are not known to be committed; more wait in it."""

RESEND = 10.0
"""Seconds after which what is not in the ledger is sent again, doubled each time up to RESEND_MAX:
it may still be in the broker, where it waits for a worker, and a second copy would only be one."""

RESEND_MAX = 300.0
QUESTION = 2000
"""Ids in one question to the ledger, more or less: those of whole batches."""

FindCommitted = Callable[[Sequence[str]], set[str]]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Rows that were sent together: their ids, by their places."""

    ids: Mapping[int, str]
    again_at: float
    wait: float

    def without(self, ids: set[str]) -> "_Batch":
        left = {place: id_ for place, id_ in self.ids.items() if id_ not in ids}
        return _Batch(left, self.again_at, self.wait)


class Outbox:
    """Sends and asks nobody itself. For one thread."""

    def __init__(self, file: JournalReader, forget: Callable[[Sequence[int]], None]) -> None:
        self.file = file
        self._forget = forget
        self._sent: list[_Batch] = []
        self._last = 0
        self._taken: list[_Batch] = []
        """What `take` returned last, where that had been sent before."""

    def take(self, now: float) -> list[Row]:
        """The next batch to be sent: what has waited long enough first, then what is new. Say with
        `note_sent` that it was."""
        while due := _take(batch for batch in self._sent if batch.again_at <= now):
            if rows := self.file.read([place for batch in due for place in batch.ids]):
                self._taken = due
                return rows
            self._remove(due)  # somebody else has emptied the file
        self._taken = []
        return self.file.read_finalized(self._last, min(BATCH, AHEAD - _count(self._sent)))

    def note_sent(self, rows: Sequence[Row], now: float) -> None:
        """That what `take` returned last was sent."""
        ids = {row.place: row.id for row in rows}
        self._remove(self._taken)
        waited = max((batch.wait for batch in self._taken), default=RESEND / 2)
        wait = min(2 * waited, RESEND_MAX)
        self._sent.append(_Batch(ids, now + wait, wait))
        self._last = max(self._last, *ids)

    def ask(self, find_committed: FindCommitted) -> None:
        """Forget what the ledger has. The first question that it answers with nothing is the last,
        and what that was about comes up after all the others."""
        for _ in range(len(self._sent)):
            asked = _take(self._sent, QUESTION)
            if not asked:
                return
            committed = find_committed([id_ for batch in asked for id_ in batch.ids.values()])
            self._remove(asked)
            self._sent += [left for batch in asked if (left := batch.without(committed)).ids]
            done = [place for b in asked for place, id_ in b.ids.items() if id_ in committed]
            if not done:
                return
            self._forget(done)

    def _remove(self, batches: Sequence[_Batch]) -> None:
        self._sent = [batch for batch in self._sent if batch not in batches]


def _take(batches: Iterable[_Batch], limit: int = BATCH) -> list[_Batch]:
    """The first of them, one at least where there are any, with no more rows than the limit."""
    taken: list[_Batch] = []
    rows = 0
    for batch in batches:
        rows += len(batch.ids)
        if taken and rows > limit:
            break
        taken.append(batch)
    return taken


def _count(batches: Iterable[_Batch]) -> int:
    return sum(len(batch.ids) for batch in batches)
