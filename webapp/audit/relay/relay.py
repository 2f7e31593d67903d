"""The relay, which brings events from the journals' files to the ledger.

It is one thread in each web process. It sends batches of events to Celery's `audit.commit`, asks
the ledger which of them it has, and sends the others again. What the ledger has stays in the file
for a while: where the ledger's history has changed, by a failover or a restore, the relay asks for
it again, and sends what was lost. It takes over the files of dead processes. No request waits for
the relay, and it retries whatever fails.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic, sleep, time
from uuid import UUID

import structlog
from kombu.exceptions import EncodeError
from prometheus_client import Counter, Gauge

from webapp.audit.append import Confirmation
from webapp.audit.event import TravellingEvent, TravellingSet
from webapp.audit.forking import after_fork
from webapp.audit.journal.file import JournalFile, Locked, adopt, list_files
from webapp.audit.journal.reader import JournalReader, Row
from webapp.audit.journal.service import Journal
from webapp.audit.relay.outbox import Confirm, Outbox, is_full, sets_named_by

ASK = 0.5
"""Seconds between two queries to the ledger."""

WATCH = 5.0
"""Seconds between two looks at the ledger's history while events are kept."""

KEPT_SHARE = 0.5
"""The part of JOURNAL_MAX_MB, in the file and on the disk, that kept events leave to others."""

TICK = 0.5
"""Seconds between two rounds when nothing happens."""

GATHER = 0.1
"""Seconds between two rounds: events that are finalized meanwhile travel together.

A round that has sent a whole batch is followed by the next at once: a pause would limit a process
to BATCH / GATHER events in a second.
"""

BACKOFF = (0.1, 5.0)
"""Seconds to the next attempt after a failure: the first value, doubled up to the second."""

ADOPT = 2.0
"""Seconds between two searches for the files of dead processes."""

ADOPTED_MAX = 32
"""Files that one process adopts at a time beside its own."""

WARN = 60.0
"""Seconds between two warnings that events are kept for less than JOURNAL_KEEP."""

UNREADABLE = 60.0
"""Seconds until a file that could not be read is tried again."""

CLOSING = 0.5
"""Seconds that the journal gets to close its file, even if draining has used up all the time."""

SENT = Counter("sightline_relay_sent_total", "Events sent to the workers, repeated ones included.")
RELAY_FAILURES = Counter("sightline_relay_failures_total", "Rounds ended by an error.", ("at",))
HELD = Gauge(
    "sightline_journal_events",
    "Events that this host's processes hold and the ledger is not known to have.",
    multiprocess_mode="livesum",
)
KEPT = Gauge(
    "sightline_journal_kept_events",
    "Events that this host's processes keep though the ledger has them.",
    multiprocess_mode="livesum",
)
STUCK = Gauge(
    "sightline_relay_stuck_events",
    "Events that do not reach the ledger though those that were sent later do.",
    multiprocess_mode="livesum",
)
FORGOTTEN_EARLY = Counter(
    "sightline_journal_forgotten_early_total",
    "Events that were kept for less than JOURNAL_KEEP, since there was no room for them.",
)
LOST_BY_LEDGER = Counter(
    "sightline_relay_lost_by_ledger_total",
    "Events that the ledger had and no longer has, and that are sent again.",
)
USED = Gauge(
    "sightline_journal_used_ratio",
    "The part of JOURNAL_MAX_MB that the fullest of this host's processes has used.",
    multiprocess_mode="livemax",
)
DAMAGED = Gauge(
    "sightline_journal_unreadable_files",
    "Files of dead processes that cannot be read: their events are in no ledger.",
    multiprocess_mode="livemax",
)

log = structlog.get_logger()

Delivery = list[TravellingEvent | TravellingSet]
Send = Callable[[Delivery], None]


class Relay:
    """Brings the events of a journal, and those of dead processes beside it, to the ledger.

    `send` hands a batch to the workers. `confirm` asks the ledger which of its keys it has. Both
    raise an error when they fail, and may be slow, since no request waits for them. What the ledger
    has stays in the files for `keep` seconds.

    `on_sent` is called, on the relay's thread, with the ids of the events of a batch that was sent,
    and the moments when that began and ended, in seconds since 1970.
    """

    def __init__(self, journal: Journal, send: Send, confirm: Confirm, keep: float) -> None:
        self._journal = journal
        self._send = send
        self._ask_ledger = confirm
        self._keep = keep
        self.on_sent: Callable[[Iterable[UUID], float, float], None] = lambda *_: None
        self._reset()
        after_fork(self._reset)
        journal.on_finalized = self._on_finalized

    def _reset(self) -> None:
        """Set the state of a process that has just started."""
        self._starting = Lock()
        self._thread: Thread | None = None
        self._wake = Event()
        self._end: float | None = None
        self._has_more = False
        self._own: Outbox | None = None
        self._own_file: JournalFile | None = None
        self._adopted: dict[JournalFile, Outbox] = {}
        self._resting: dict[Path, _Rest] = {}
        self._unreadable: dict[Path, float] = {}
        self._history: str | None = None
        """The ledger's history when it was last asked."""
        self._asked_at = -inf
        self._is_disk_short = self._is_file_short = False
        """Whether kept events take room that others may soon need."""
        self._warned_at = -inf
        self._known_sets: set[str] = set()
        """Digests of the sets of excluded tenants that the ledger has."""
        self._awaited_sets: dict[str, str] = {}
        """By digest, the id of an event whose commit shows that the ledger has the set too."""
        self._parts = (
            _Part("follow", self._follow, 0.0),
            _Part("adopt", self._adopt, ADOPT),
            _Part("send", self._send_all, 0.0),
            _Part("ask", self._ask, ASK),
            _Part("watch", self._watch, WATCH),
            _Part("ask again", self._ask_again, 0.0),
            _Part("release", self._release, 0.0),
            _Part("measure", self._measure, ASK),
        )

    def start(self) -> None:
        """Start the thread in this process, unless it runs already or has drained."""
        with self._starting:
            if self._end is None and (self._thread is None or not self._thread.is_alive()):
                self._thread = Thread(target=self._run, name="relay", daemon=True)
                self._thread.start()

    def drain(self, seconds: float) -> None:
        """Relay what can be within `seconds`, and end the thread.

        The rest stays in the files, for the process that adopts them.
        """
        end = monotonic() + seconds
        with self._starting:
            self._end = end
        self._wake.set()
        if self._thread is not None:
            self._thread.join(seconds)
        self._journal.close(max(CLOSING, end - monotonic()))

    def _on_finalized(self) -> None:
        if not self._wake.is_set():
            self.start()
            self._wake.set()

    def _run(self) -> None:
        while not self._is_done():
            self._wake.wait(TICK)
            self._wake.clear()
            self._has_more = False
            for part in self._parts:
                part.run(monotonic())
            if self._has_more:
                self._wake.set()
            else:
                sleep(GATHER)
        for file in list(self._adopted):
            self._let_go(file)

    def _is_done(self) -> bool:
        if self._end is None:
            return False
        waiting = self._journal.held > 0 or any(file.held > 0 for file in self._adopted)
        return monotonic() > self._end or not waiting

    def _follow(self, _: float) -> None:
        """Follow the journal to the file that it writes to, a new one after a failure."""
        file = self._journal.file
        if file is self._own_file:
            return
        if self._own is not None:
            self._own.file.close()
            self._own = None
        if file is not None:
            self._own = Outbox(JournalReader(file.path), partial(self._journal.note, file))
        self._own_file = file

    def _adopt(self, now: float) -> None:
        """Adopt the files of dead processes, at most ADOPTED_MAX at a time."""
        if self._end is not None:
            return
        paths = list_files(self._journal.directory)
        self._unreadable = {path: at for path, at in self._unreadable.items() if path in paths}
        self._resting = {path: rest for path, rest in self._resting.items() if path in paths}
        for path in paths:
            if len(self._adopted) < ADOPTED_MAX and self._is_due(path, now):
                self._adopt_one(path)
        DAMAGED.set(len(self._unreadable))

    def _is_due(self, path: Path, now: float) -> bool:
        rest = self._resting.get(path)
        if rest is not None and rest.history == self._history and not self._is_disk_short:
            return rest.until <= now
        return self._unreadable.get(path, 0.0) <= now

    def _adopt_one(self, path: Path) -> None:
        try:
            file = adopt(path, self._journal.max_bytes)
        except (Locked, FileNotFoundError):  # held by a living process, perhaps this one, or gone
            self._unreadable.pop(path, None)
        except (sqlite3.Error, OSError) as error:
            self._set_aside(path, error)
        else:
            self._unreadable.pop(path, None)
            self._resting.pop(path, None)
            self._adopted[file] = Outbox(file, file.note_now)
            if file.held:
                log.info("journal_adopted", journal=path.stem, events=file.held)

    def _set_aside(self, path: Path, error: Exception) -> None:
        """Leave an unreadable file in its place for a person to examine; go on with the others."""
        log.error("journal_unreadable", journal=path.stem, exc_info=error)
        self._unreadable[path] = monotonic() + UNREADABLE

    def _send_all(self, now: float) -> None:
        self._each(partial(self._send_next, now))

    def _send_next(self, now: float, box: Outbox) -> None:
        rows = box.take(now)
        if rows:
            if box.is_stuck(rows):
                log.error("audit_event_stuck", journal=box.file.path.stem, audit_event=rows[0].id)
            began = time()
            try:
                self._send(delivery_of(box.file, rows, self._sets_to_send(box, rows)))
                SENT.inc(len(rows))
                self.on_sent((UUID(row.id) for row in rows), began, time())
            except EncodeError as error:  # larger than any that is written now
                log.error("audit_event_too_large", events=[row.id for row in rows], exc_info=error)
            box.note_sent(rows, now)
        self._has_more |= is_full(rows)

    def _sets_to_send(self, box: Outbox, rows: Sequence[Row]) -> set[str]:
        """The digests of the sets to send with rows: those that the ledger is not known to have.

        Rows that are sent again take theirs along: a database that was restored may lack them.
        """
        named = sets_named_by(rows)
        if box.is_resending:
            return set(named)
        unknown = named.keys() - self._known_sets
        self._awaited_sets |= {digest: named[digest] for digest in unknown}
        return unknown

    def _ask(self, _: float) -> None:
        self._each(self._ask_one)

    def _ask_one(self, box: Outbox) -> None:
        box.ask(self._confirm)
        if self._history is not None:
            # While the ledger cannot be asked, nobody knows what it has.
            box.forget(self._asked_at - self._keep, self._history)
        if self._is_disk_short or (self._is_file_short and box is self._own):
            self._make_room(box)

    def _make_room(self, box: Outbox) -> None:
        forgotten = box.make_room()
        if forgotten:
            FORGOTTEN_EARLY.inc(forgotten)
            if self._warned_at < monotonic() - WARN:
                self._warned_at = monotonic()
                log.warning("journal_kept_for_less", journal=box.file.path.stem, events=forgotten)

    def _watch(self, _: float) -> None:
        """Ask for the ledger's history: a failover must not go unseen while nothing is sent."""
        if self._resting or any(box.keeps for box in self._boxes()):
            self._confirm([])

    def _ask_again(self, _: float) -> None:
        if self._history is not None:
            self._each(partial(self._ask_one_again, self._history))

    def _ask_one_again(self, history: str, box: Outbox) -> None:
        lost = box.ask_again(history, self._confirm)
        if lost is None:
            return
        self._has_more = True
        if lost:
            LOST_BY_LEDGER.inc(lost)
            log.error("ledger_lost_events", journal=box.file.path.stem, events=lost)

    def _confirm(self, keys: Sequence[str]) -> Confirmation:
        found = self._ask_ledger(keys)
        self._asked_at = found.at
        if found.history != self._history:
            if self._history is not None:
                log.warning("ledger_history_changed", was=self._history, now=found.history)
            self._history = found.history
            self._known_sets.clear()
        for digest, key in list(self._awaited_sets.items()):
            if key in found.committed:
                self._known_sets.add(digest)
                del self._awaited_sets[digest]
        return found

    def _boxes(self) -> Iterable[Outbox]:
        return [*self._adopted.values(), *([self._own] if self._own is not None else [])]

    def _each(self, do: Callable[[Outbox], None]) -> None:
        for file, box in list(self._adopted.items()):
            try:
                do(box)
            except sqlite3.Error as error:
                self._let_go(file)
                self._set_aside(file.path, error)
        if self._own is not None:
            try:
                do(self._own)
            except sqlite3.Error:
                self._own_file = None  # `_follow` opens it anew
                raise

    def _release(self, _: float) -> None:
        """Close adopted files that have nothing left to send.

        One that keeps events can be adopted again: by this process when they may be forgotten, or
        when the ledger has another history.
        """
        for file, box in list(self._adopted.items()):
            if file.held > 0:
                continue
            if file.kept <= 0:
                self._let_go(file)
            elif self._history is not None and (since := box.kept_since(self._history)) is not None:
                until = since + self._keep
                if until > monotonic():
                    self._resting[file.path] = _Rest(self._history, until)
                    self._let_go(file)

    def _measure(self, _: float) -> None:
        own = self._own_file
        HELD.set(self._journal.held + sum(file.held for file in self._adopted))
        KEPT.set((own.kept if own else 0) + sum(file.kept for file in self._adopted))
        STUCK.set(sum(box.stuck for box in self._boxes()))
        used = self._own.file.used_bytes() if self._own is not None else 0
        USED.set(used / self._journal.max_bytes)
        left = KEPT_SHARE * self._journal.max_bytes
        self._is_file_short = self._journal.max_bytes - used < left
        self._is_disk_short = _free_bytes(self._journal.directory) < left

    def _let_go(self, file: JournalFile) -> None:
        """Close an adopted file: an empty one is removed, another can be adopted again."""
        del self._adopted[file]
        try:
            file.close()
        except (sqlite3.Error, OSError) as error:
            log.error("journal_not_closed", journal=file.path.stem, exc_info=error)


def delivery_of(file: JournalReader, rows: Sequence[Row], sets: Iterable[str]) -> Delivery:
    """The rows of a file, and before them the sets of excluded tenants with these digests.

    The worker detects a damaged row by its signature, and a damaged set by its digest.
    """
    events = [(row.event.decode(errors="replace"), row.signature) for row in rows]
    return [*((members,) for members in file.read_sets(sets)), *events]


def _free_bytes(directory: Path) -> float:
    try:
        disk = os.statvfs(directory)
    except FileNotFoundError:  # before the first event
        return inf
    return disk.f_bavail * disk.f_frsize


@dataclass(frozen=True)
class _Rest:
    """Why a file that only keeps events is not adopted for now."""

    history: str
    until: float


@dataclass
class _Part:
    """A step that the relay repeats every `period` seconds, and less often while it fails."""

    name: str
    do: Callable[[float], None]
    period: float
    next_at: float = 0.0
    backoff: float = BACKOFF[0]

    def run(self, now: float) -> None:
        if now < self.next_at:
            return
        try:
            self.do(now)
        except Exception as error:  # no part may stop the others, or itself for good
            RELAY_FAILURES.labels(self.name).inc()
            log.warning("relay_failed", at=self.name, error=repr(error))
            self.next_at = monotonic() + self.backoff
            self.backoff = min(2 * self.backoff, BACKOFF[1])
        else:
            self.next_at = now + self.period
            self.backoff = BACKOFF[0]
