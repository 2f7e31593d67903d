"""The delivery state of one journal file: what was sent, and what is to be sent again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from webapp.audit.journal.reader import JournalReader, Row

BATCH = 500
"""Events in one task."""

BATCH_BYTES = 2**21
"""Bytes of events in one task, roughly. A single event may have more."""

AHEAD = 10_000
"""The most events of one file that may be sent and not known to be committed."""

RESEND = 10.0
"""Seconds after which an event that is not in the ledger is sent again.

They double each time up to RESEND_MAX: the first copy may still wait in the broker for a worker,
and a second one would not help.
"""

RESEND_MAX = 300.0
QUERY_KEYS = 2000
"""Keys in one query to the ledger, roughly: whole batches are asked for."""

FindCommitted = Callable[[Sequence[str]], set[str]]
"""Returns those of the events' keys that the ledger has."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """Rows that were sent together."""

    keys: Mapping[int, str]
    """The events' keys, by the places of their rows."""
    again_at: float
    wait: float

    def without(self, keys: set[str]) -> "_Batch":
        left = {place: key for place, key in self.keys.items() if key not in keys}
        return _Batch(left, self.again_at, self.wait)


class Outbox:
    """What the relay has sent of one file, and what it sends next, for one thread.

    It does not send anything itself.
    """

    def __init__(self, file: JournalReader, forget: Callable[[Sequence[int]], None]) -> None:
        self.file = file
        self._forget = forget
        self._sent: list[_Batch] = []
        self._last = 0
        self._taken: list[_Batch] = []
        """The batches that `take` returned last, if they had been sent before."""

    def take(self, now: float) -> list[Row]:
        """Return the next rows to send: first those that are due again, then new ones.

        The caller sends them, and then calls `note_sent`.
        """
        while due := _take(batch for batch in self._sent if batch.again_at <= now):
            if rows := self.file.read([place for batch in due for place in batch.keys]):
                self._taken = due
                return self._within_bytes(rows)
            self._remove(due)  # the rows are gone from the file
        self._taken = []
        limit = min(BATCH, AHEAD - _count(self._sent))
        return self._within_bytes(self.file.read_finalized(self._last, limit))

    @property
    def is_resending(self) -> bool:
        """Whether the rows that `take` returned last had been sent before."""
        return bool(self._taken)

    def note_sent(self, rows: Sequence[Row], now: float) -> None:
        """Note that the rows which `take` returned last were sent."""
        keys = {row.place: row.key for row in rows}
        self._remove(self._taken)
        # What did not fit into the same task is still due.
        sent = set(keys.values())
        self._sent[:0] = [left for batch in self._taken if (left := batch.without(sent)).keys]
        waited = max((batch.wait for batch in self._taken), default=RESEND / 2)
        wait = min(2 * waited, RESEND_MAX)
        self._sent.append(_Batch(keys, now + wait, wait))
        self._last = max(self._last, *keys)

    def ask(self, find_committed: FindCommitted) -> None:
        """Ask the ledger which events it has, and forget those.

        The first query that finds nothing is the last one. Its batches are asked about again after
        all the others.
        """
        for _ in range(len(self._sent)):
            queried = _take(self._sent, QUERY_KEYS)
            if not queried:
                return
            committed = find_committed([key for batch in queried for key in batch.keys.values()])
            self._remove(queried)
            self._sent += [left for batch in queried if (left := batch.without(committed)).keys]
            done = [place for b in queried for place, key in b.keys.items() if key in committed]
            if not done:
                return
            self._forget(done)

    def _within_bytes(self, rows: Sequence[Row]) -> list[Row]:
        named = sets_named_by(rows)
        return _within_bytes(rows, self.file.measure_sets(named) if named else {})

    def _remove(self, batches: Sequence[_Batch]) -> None:
        self._sent = [batch for batch in self._sent if batch not in batches]


def is_full(rows: Sequence[Row]) -> bool:
    """Whether more rows may wait that did not fit into the same task."""
    return len(rows) == BATCH or sum(len(row.event) for row in rows) > BATCH_BYTES // 2


def sets_named_by(rows: Iterable[Row]) -> dict[str, str]:
    """The digests of the sets of tenants that rows name, each with the key of such an event."""
    return {row.excluded: row.key for row in rows if row.excluded is not None}


def _within_bytes(rows: Sequence[Row], sets: dict[str | None, int]) -> list[Row]:
    """Return the first rows, with at most BATCH_BYTES together, but at least one row.

    `sets` has the bytes of the sets that they name.
    """
    taken: list[Row] = []
    size = 0
    for row in rows:
        size += len(row.event) + sets.pop(row.excluded, 0)
        if taken and size > BATCH_BYTES:
            break
        taken.append(row)
    return taken


def _take(batches: Iterable[_Batch], limit: int = BATCH) -> list[_Batch]:
    """Return the first batches, with at most `limit` rows together, but at least one batch."""
    taken: list[_Batch] = []
    rows = 0
    for batch in batches:
        rows += len(batch.keys)
        if taken and rows > limit:
            break
        taken.append(batch)
    return taken


def _count(batches: Iterable[_Batch]) -> int:
    return sum(len(batch.keys) for batch in batches)
