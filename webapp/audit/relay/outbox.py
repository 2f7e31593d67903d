"""The delivery state of one journal file: what was sent, what is to be sent again, and what stays
though the ledger has it."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter
from time import monotonic

from webapp.audit.append import Confirmation
from webapp.audit.journal.file import Notes
from webapp.audit.journal.reader import JournalReader, Kept, Row

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

STUCK = 3
"""How often an event is overtaken until it is held to be stuck: alone, and before that at most once
in a batch."""

STUCK_MAX = 86_400.0
"""The same as RESEND_MAX for an event that is stuck: it stays, and costs next to nothing."""

QUERY_KEYS = 2000
"""Keys in one query to the ledger, roughly: whole batches are asked for."""

FORGOTTEN = 5000
"""Rows that are forgotten at a time, roughly: the thread that forgets them also writes new ones."""

UNSENT = 0
"""The number of a batch that was not sent as it is."""

Confirm = Callable[[Sequence[str]], Confirmation]
"""Asks the ledger which of some events' keys it has."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """Rows that were sent together."""

    keys: Mapping[int, str]
    """The events' keys, by the places of their rows."""
    again_at: float
    wait: float
    number: int = UNSENT
    """The place of the batch among all that were sent of the file."""
    misses: int = 0
    """How often it was overtaken, of a half the whole batch included."""

    @property
    def is_stuck(self) -> bool:
        return len(self.keys) == 1 and self.misses >= STUCK

    def without(self, keys: set[str]) -> "_Batch":
        left = {place: key for place, key in self.keys.items() if key not in keys}
        return replace(self, keys=left)

    def halves(self) -> list["_Batch"]:
        """The batch as it is sent next, now that others have overtaken it; one row stays as it is.

        Others arrive, so that the halves need not wait for longer than new rows.
        """
        if len(self.keys) == 1:
            return [replace(self, number=UNSENT, misses=self.misses + 1)]
        items, middle = list(self.keys.items()), len(self.keys) // 2
        return [
            _Batch(dict(half), self.again_at, RESEND / 2, misses=1)
            for half in (items[:middle], items[middle:])
        ]


class Outbox:
    """What the relay has sent of one file, and what it sends next, for one thread.

    A batch that was overtaken, since the ledger has events that were sent later, does not come
    through: a broker drops it, or workers die of it. It is sent in halves, down to the one event
    that is at fault and travels alone.

    It does not send anything itself.
    """

    def __init__(
        self, file: JournalReader, note: Callable[[Notes], None], ahead: float = AHEAD
    ) -> None:
        self.file = file
        self._note = note
        self._ahead = ahead
        self._kept = deque(_not_later(file.read_kept(), monotonic()))
        """What the ledger has, in the order in which it was last asked."""
        self._current: str | None = None
        """The history under which all of it was last confirmed."""
        self._sent: list[_Batch] = []
        self._last = 0
        self._taken: list[_Batch] = []
        """The batches that `take` returned last, if they had been sent before."""
        self._number = 0
        """How many batches were sent."""
        self._reached = 0
        """The number of the last batch of which the ledger has an event."""

    def take(self, now: float) -> list[Row]:
        """Return the next rows to send: first those that are due again, then new ones.

        The caller sends them, and then calls `note_sent`.
        """
        while due := self._take_due(now):
            if rows := self.file.read([place for batch in due for place in batch.keys]):
                self._taken = due
                return self._within_bytes(rows)
            self._remove(due)  # the rows are gone from the file
        self._taken = []
        limit = int(min(BATCH, self._room()))
        return self._within_bytes(self.file.read_finalized(self._last, limit))

    def _room(self) -> float:
        """How many new rows may be sent.

        Where nothing has come through for long, one may, to find out whether others do.
        """
        ahead = [batch for batch in self._sent if not batch.is_stuck]
        room = self._ahead - _count(ahead)
        if room <= 0 and all(batch.wait >= RESEND_MAX for batch in ahead):
            return 1
        return max(0, room)

    def _take_due(self, now: float) -> list[_Batch]:
        """Return batches to send again: many in one, but each alone that was ever overtaken."""
        due = [batch for batch in self._sent if batch.again_at <= now]
        if whole := _take(b for b in due if not b.misses and not self._is_overtaken(b)):
            return whole
        if due and self._is_overtaken(due[0]):
            halves = due[0].halves()
            self._remove(due[:1])
            self._sent[:0] = halves
            return halves[:1]
        return due[:1]

    def _is_overtaken(self, batch: _Batch) -> bool:
        return UNSENT < batch.number <= self._reached

    @property
    def keeps(self) -> bool:
        """Whether the file has rows that the ledger has too."""
        return bool(self._kept)

    @property
    def is_resending(self) -> bool:
        """Whether the rows that `take` returned last had been sent before."""
        return bool(self._taken)

    @property
    def stuck(self) -> int:
        """How many events do not come through, though each travels alone and others do."""
        return sum(batch.is_stuck for batch in self._sent)

    def is_stuck(self, rows: Sequence[Row]) -> bool:
        """Whether the rows that `take` returned last are one such event."""
        return len(rows) == 1 and any(batch.is_stuck for batch in self._taken)

    def note_sent(self, rows: Sequence[Row], now: float) -> None:
        """Note that the rows which `take` returned last were sent."""
        keys = {row.place: row.key for row in rows}
        self._remove(self._taken)
        # What did not fit into the same task is still due.
        sent = set(keys.values())
        self._sent[:0] = [left for batch in self._taken if (left := batch.without(sent)).keys]
        waited = max((batch.wait for batch in self._taken), default=RESEND / 2)
        most = STUCK_MAX if self.is_stuck(rows) else RESEND_MAX
        wait = min(2 * waited, most)
        misses = max((batch.misses for batch in self._taken), default=0)
        self._number += 1
        self._sent.append(_Batch(keys, now + wait, wait, self._number, misses))
        self._last = max(self._last, *keys)

    def ask(self, confirm: Confirm) -> None:
        """Ask the ledger which events it has, and keep those.

        The first query that finds nothing is the last one. Its batches are asked about again after
        all the others.
        """
        for _ in range(len(self._sent)):
            queried = _take(self._sent, QUERY_KEYS)
            if not queried:
                return
            found = confirm([key for batch in queried for key in batch.keys.values()])
            if not self._settle(queried, found):
                return

    def note_found(self, found: Confirmation) -> int:
        """Keep those of the rows sent last that the ledger has; returns how many."""
        return self._settle(self._sent[-1:], found)

    def _settle(self, queried: Sequence[_Batch], found: Confirmation) -> int:
        committed = found.committed
        self._remove(queried)
        arrived = [b.number for b in queried if not committed.isdisjoint(b.keys.values())]
        self._reached = max([self._reached, *arrived])
        self._sent += [left for batch in queried if (left := batch.without(committed)).keys]
        done = [place for b in queried for place, key in b.keys.items() if key in committed]
        if done:
            self._keep((), done, found)
        return len(done)

    def ask_again(self, history: str, confirm: Confirm) -> int | None:
        """Ask once more about some of what was confirmed under another history than this one.

        Returns how many of these events the ledger has lost, which are sent again; `None` where
        there was nothing to ask.
        """
        if history == self._current or self._room() <= 0:
            return None
        doubtful = [kept for kept in self._kept if kept.history != history]
        if not doubtful:
            self._current = history
            return None
        some = _take_rows(doubtful, QUERY_KEYS)
        rows = [row for kept in some for row in self.file.read_between(kept.first, kept.last)]
        found = confirm([row.key for row in rows])
        lost = {row.place: row.key for row in rows if row.key not in found.committed}
        self._keep(some, [row.place for row in rows if row.place not in lost], found)
        self._sent[:0] = [_Batch(batch, monotonic(), RESEND / 2) for batch in _split(lost)]
        return len(lost)

    def forget(self, before: float, history: str) -> bool:
        """Forget some of what the ledger has had since a moment; returns whether there was any.

        While it has another history now, nothing is forgotten: it is asked again first.
        """
        rows = 0
        forgotten = []
        while self._kept and rows < FORGOTTEN:
            kept = self._kept[0]
            if kept.at > before or kept.history != history:
                break
            forgotten.append(self._kept.popleft())
            rows += kept.rows
        if forgotten:
            self._note(Notes(forgotten=forgotten))
        return bool(forgotten)

    def make_room(self) -> int:
        """Forget up to half of what is kept, the oldest first, and return how many rows."""
        half = sum(kept.rows for kept in self._kept) // 2
        forgotten = _take_rows(self._kept, min(half, FORGOTTEN) or 1)
        for _ in forgotten:
            self._kept.popleft()
        if forgotten:
            self._note(Notes(forgotten=forgotten))
        return sum(kept.rows for kept in forgotten)

    def kept_since(self, history: str) -> float | None:
        """When the ledger was asked about the first of what the file keeps.

        `None` where it has another history now, so that it has to be asked again.
        """
        if any(kept.history != history for kept in self._kept):
            return None
        return min((kept.at for kept in self._kept), default=None)

    def _keep(self, released: Sequence[Kept], places: Sequence[int], found: Confirmation) -> None:
        """Keep the rows at these places, which the ledger has, and not as they were kept before."""
        kept = [Kept(first, last, found.at, found.history) for first, last in _runs(places)]
        if released:
            gone = set(released)
            self._kept = deque(each for each in self._kept if each not in gone)
        self._kept += kept
        self._note(Notes(kept=kept, released=released))

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


def _take_rows(ranges: Iterable[Kept], limit: int) -> list[Kept]:
    """Return the first ranges, with roughly `limit` rows together."""
    taken: list[Kept] = []
    rows = 0
    for kept in ranges:
        if rows >= limit:
            break
        taken.append(kept)
        rows += kept.rows
    return taken


def _runs(places: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and the last of each run of successive places."""
    ordered = sorted(places)
    if not ordered:
        return []
    breaks = [(one, other) for one, other in pairwise(ordered) if other > one + 1]
    firsts = [ordered[0], *(other for _, other in breaks)]
    lasts = [*(one for one, _ in breaks), ordered[-1]]
    return list(zip(firsts, lasts, strict=True))


def _split(keys: Mapping[int, str]) -> list[Mapping[int, str]]:
    items = list(keys.items())
    return [dict(items[start : start + BATCH]) for start in range(0, len(items), BATCH)]


def _not_later(found: Iterable[Kept], now: float) -> list[Kept]:
    """Take what was confirmed before the host started again as confirmed now: the clock began anew.

    So it is kept longer, and never for less.
    """
    return sorted((kept._replace(at=min(kept.at, now)) for kept in found), key=attrgetter("at"))


def _count(batches: Iterable[_Batch]) -> int:
    return sum(len(batch.keys) for batch in batches)
