"""Generations: numbers that say whether the values cached under a tag are still current.

The table `cache_generations` is authoritative. A transaction that changes rows also raises the
generations of their tags, so both changes become visible together. A cached value names the
generations that were read *before* its rows. It is served only while these generations are current.
So a slow reader may store an old value, but no caller takes it. A rollback invalidates nothing.

Asking the database each time would cost what the cache saves. So Redis holds a *lease* of each
generation: a signed statement that the generation was current at most LEASE seconds before the
lease's expiry. No caller gets a value from before an acknowledged write, for these reasons:

1. A lease of generation n expires LEASE after a moment that lies before n was read from the
   database. Readers check the signed expiry by their own clocks, which differ by SKEW at most, and
   Redis applies it by PXAT. So LEASE + SKEW after n+1 was committed, no lease of n is valid,
   however long it was kept or delayed.
2. A write returns when Redis has noted n+1. The note stays for as long as a lease of n can exist,
   and no lease of n can replace it: the script only writes a greater generation, or the same for
   longer. If Redis does not confirm the note, the write returns LEASE + SKEW after the commit. The
   note is a lease that has already expired. Only readers make valid leases, since a writer may be
   late, and Redis may have lost a newer note meanwhile.
3. If Redis loses n+1, a reader finds no lease and asks the database. Another reader may be about to
   publish a lease of n. That lease is refused: it names the era in which it was read, and an era
   begins when Redis was last empty. If Redis restarts and restores n from its disk, readers ignore
   leases until those from before the start have expired (`Store._connected`). A lease that is
   forged, malformed or valid for longer than LEASE is ignored too.

4. A process that has read n uses it for REUSE from the moment when it began to read, and asks
   nobody meanwhile. So a write returns REUSE after Redis has confirmed its note. Whoever read n
   before the note has to ask again by then, and finds n+1.

One case remains: after a failover to a replica of Redis that lags behind, a reader may believe n
until its lease ends, for LEASE at most. Cached functions must read the primary database, as
generations do.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from time import monotonic, time
from typing import NamedTuple

from sqlalchemy import text

from webapp.caching.single_flight import SingleFlight
from webapp.caching.store import Store, Unavailable
from webapp.db.scopes import IdentityScope
from webapp.db.session import ScopedSession
from webapp.extensions import db
from webapp.key_ring import KeyRing

LEASE = 2.0
SKEW = 0.1
"""Seconds by which the clocks of two machines may differ."""

REUSE = 0.02
"""Seconds for which a process uses a generation before it reads it again.

Under load, Redis is asked once for 25 answers, which takes a fifth of a cached list's CPU time out
of it.
"""

LONGEST_MS = (LEASE + SKEW) * 1000
SHORTEST_MS = REUSE * 1000
"""What a lease has to last at least, so that nobody uses it after its expiry."""

EPOCH = "cache"
"""The tag of all values in the memory of processes; `flask cache clear` invalidates it."""

MAC_BYTES = 16
REMEMBERED = 1000

_READ = text(
    "select tag, coalesce(generation, 0), current_setting('transaction_isolation')"
    " from unnest(cast(:tags as text[])) wanted(tag) left join cache_generations using (tag)"
)
_READS_COMMITTED_ONLY = text(
    "select pg_current_xact_id_if_assigned() is null"
    " and current_setting('transaction_isolation') = 'read committed'"
)


class Reading(NamedTuple):
    """The result of one round trip. A request makes several; a dataclass would take longer."""

    generations: Mapping[str, int]
    """The generations of EPOCH and of the tags asked for."""
    stored: bytes | None
    reachable: bool


class _Lease(NamedTuple):
    """A lease whose MAC was verified."""

    content: bytes
    generation: int
    expires: int
    """In ms since 1970."""


class Generations:
    """Reads the current generations from their leases, or else from the database."""

    def __init__(self, store: Store, keys: KeyRing) -> None:
        self._store = store
        self._keys = keys
        # The MAC of a lease is verified once, while its bytes stay the same.
        self._verified: dict[str, _Lease] = {}
        # Generations, and until when by the monotonic clock this process uses them.
        self._reusable: dict[str, tuple[int, float]] = {}
        self._asking = SingleFlight()

    def read(self, tags: Iterable[str], key: str | None = None, *, fresh: bool = False) -> Reading:
        """Read the generations of `tags` and the bytes stored under `key`, in one round trip.

        Generations that are at most REUSE old are read again only if `fresh` ones are asked for.
        """
        wanted = dict.fromkeys((EPOCH, *tags))
        if fresh:
            return self._ask({}, tuple(wanted), key)
        while True:
            known = self._recall(wanted)
            unknown = tuple([tag for tag in wanted if tag not in known])
            if key is not None:
                return self._ask(known, unknown, key)
            if not unknown:
                return Reading(known, None, reachable=True)
            # Many threads find the same generations to be too old at the same moment. One asks.
            with self._asking.enter(unknown) as done:
                if done is None:
                    return self._ask(known, unknown, None)
            done.wait()

    def _ask(self, known: Mapping[str, int], unknown: Sequence[str], key: str | None) -> Reading:
        began = monotonic()
        names = [f"gen:{tag}" for tag in unknown]
        if key is not None:
            names.append(key)
        try:
            stored = self._store.get_many(*names)
            reachable = True
        except Unavailable:
            stored = [None] * len(names)
            reachable = False
        found = self._read_leases(unknown, stored)
        self._keep(found, began)
        missing = [tag for tag in unknown if tag not in found]
        if missing:
            found |= self._from_database(missing, began)
        return Reading({**known, **found}, stored[-1] if key is not None else None, reachable)

    def _recall(self, tags: Iterable[str]) -> dict[str, int]:
        now, reusable = monotonic(), self._reusable
        return {
            tag: kept[0]
            for tag in tags
            if (kept := reusable.get(tag)) is not None and now < kept[1]
        }

    def _keep(self, generations: Mapping[str, int], began: float) -> None:
        """Let this process use what it began to read at `began`."""
        if len(self._reusable) >= REMEMBERED:
            self._reusable.clear()
        for tag, generation in generations.items():
            self._reusable[tag] = (generation, began + REUSE)

    def publish(
        self, generations: Mapping[str, int], now: int, *, era: bytes | None = None
    ) -> None:
        """Publish leases of `generations` that were current at `now` (in ms) in `era`."""
        expires = now + int(LEASE * 1000)
        leases = {
            f"gen:{tag}": (generation, expires, self._lease(tag, generation, expires))
            for tag, generation in generations.items()
        }
        self._store.publish(leases, era=era)

    def note(self, generations: Mapping[str, int]) -> None:
        """Note committed `generations`, so that no reader believes a lease of earlier ones."""
        now = now_ms()
        expires = now + int((LEASE + SKEW) * 1000)
        notes = {
            f"gen:{tag}": (generation, expires, self._lease(tag, generation, now))
            for tag, generation in generations.items()
        }
        self._store.publish(notes, at_once=True)

    def _lease(self, tag: str, generation: int, expires: int) -> bytes:
        body = b"%d|%d|" % (generation, expires)
        return body + self._keys.mac(*_signed(tag, body))

    def _read_leases(self, tags: Sequence[str], stored: Sequence[bytes | None]) -> dict[str, int]:
        if not self._store.trusted:
            return {}
        now = now_ms()
        found = {}
        for tag, lease in zip(tags, stored, strict=False):
            if lease is None:
                continue
            verified = self._verified.get(tag)
            if verified is None or verified.content != lease:
                verified = self._verify(tag, lease)
            if verified is not None and SHORTEST_MS <= verified.expires - now <= LONGEST_MS:
                found[tag] = verified.generation
        return found

    def _verify(self, tag: str, lease: bytes) -> _Lease | None:
        body = lease[:-MAC_BYTES]
        if not self._keys.has_made(lease[-MAC_BYTES:], *_signed(tag, body)):
            return None
        generation, expires, _ = body.split(b"|")
        if len(self._verified) >= REMEMBERED:
            self._verified.clear()
        verified = self._verified[tag] = _Lease(lease, int(generation), int(expires))
        return verified

    def _from_database(self, tags: list[str], began: float) -> dict[str, int]:
        era = self._era()
        now = now_ms()
        rows = _select(tags)
        generations = {tag: generation for tag, generation, _ in rows}
        # A transaction that keeps a snapshot may see generations that are long outdated.
        if rows[0][2] == "read committed":
            self._keep(generations, began)
            if era is not None:
                with suppress(Unavailable):
                    self.publish(generations, now, era=era)
        return generations

    def _era(self) -> bytes | None:
        try:
            return self._store.era()
        except Unavailable:
            return None


def _signed(tag: str, body: bytes) -> tuple[bytes, ...]:
    return tag.encode(), b"|", body


def now_ms() -> int:
    return int(time() * 1000)


def _select(tags: list[str]) -> list[tuple[str, int, str]]:
    """Read generations in the open transaction, or in a new one that is rolled back."""
    if db.scope is None:
        with db.scoped(IdentityScope()):
            return _rows(tags)
    opened = not db.session.in_transaction()
    try:
        return _rows(tags)
    finally:
        if opened:
            db.session.rollback()


def _rows(tags: list[str]) -> list[tuple[str, int, str]]:
    return [(row[0], row[1], row[2]) for row in db.session.execute(_READ, {"tags": tags})]


def reads_committed_only(session: ScopedSession) -> bool:
    """Return whether the open transaction sees the same rows as every other transaction now.

    It does if it has written nothing itself, and keeps no older snapshot.
    """
    return bool(session.scalar(_READS_COMMITTED_ONLY))
