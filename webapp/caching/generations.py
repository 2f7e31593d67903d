"""Generations: numbers that say whether what was cached under a tag is still current.

The truth is the table `cache_generations`. A transaction that changes rows raises their tags'
generations in itself, so both become visible together; a cached value names the generations read
*before* its rows were, and is served only while they are the current ones. So a slow reader can
store an old value but nobody will take it, and a rollback invalidates nothing.

GrantRequest the database each time would cost what the cache saves. Redis therefore holds a
*lease* of
each generation: a signed statement that it was current at most LEASE seconds before its expiry.
Why nobody gets a list from before an acknowledged write:

1. A lease of generation n expires LEASE after a moment before n was read from the database, by its
   signed content, which readers check by their own clocks (SKEW apart at most), and by PXAT. So a
   lease of n is worthless LEASE + SKEW after n+1 was committed, whoever kept or delayed it.
2. A write returns only when Redis has noted n+1, which no lease of n can replace (the script only
   ever writes a greater generation, or the same for longer) for as long as there can be one; or,
   if Redis did not confirm, when LEASE + SKEW have passed since the commit. The note is a lease
   that is over already: only readers make leases, since a writer may come late to a Redis that
   has lost a newer note.
3. If Redis loses n+1, a reader finds no lease and asks the database. A lease of n that another
   reader was about to publish is refused then: it names the era that it was read in, which began
   when Redis was last empty. If Redis restarts and restores n from its disk, leases are ignored
   until those from before the start have expired (`Store._connected`). What is forged, garbage or
   valid for longer than LEASE is no lease.

What is left: after a failover to a replica of Redis that lags behind, n may be believed until its
lease ends, LEASE at most. Cached functions must read the primary database, as generations do.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from hmac import compare_digest
from time import time
from typing import NamedTuple

from flask import has_app_context
from sqlalchemy import text

from webapp.caching.store import Store, Unavailable
from webapp.db.scopes import IdentityScope
from webapp.db.session import ScopedSession
from webapp.extensions import db
from webapp.http.state import current_state

LEASE = 2.0
SKEW = 0.1
"""Seconds by which the clocks of two machines may differ."""

LONGEST_MS = (LEASE + SKEW) * 1000

EPOCH = "cache"
"""The tag of everything that processes hold in their memory; `flask cache clear` ends it."""

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
    """What one round trip found; made several times in a request, and a dataclass takes longer."""

    generations: Mapping[str, int]
    """Of the tags asked for and EPOCH."""
    stored: bytes | None
    reachable: bool


class Generations:
    """The current generations, by their leases or from the database."""

    def __init__(self, store: Store, key: bytes) -> None:
        self._store = store
        self._key = key
        # The leases last seen, whose MACs need no second access while they are the same bytes.
        self._verified: dict[str, tuple[bytes, int, int]] = {}

    def read(self, tags: Iterable[str], key: str | None = None, *, fresh: bool = False) -> Reading:
        """The generations of `tags` and the bytes stored under `key`, in one round trip.

        Within a request, generations are read once unless `fresh` ones are asked for.
        """
        known = _known()
        wanted = dict.fromkeys((EPOCH, *tags))
        if key is None and not fresh and (recalled := _recall(known, wanted)) is not None:
            return Reading(recalled, None, reachable=True)
        unknown = [tag for tag in wanted if fresh or tag not in known]
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
        missing = [tag for tag in unknown if tag not in found]
        if missing:
            found |= self._from_database(missing)
        known.update(found)
        current = {tag: known[tag] for tag in wanted}
        return Reading(current, stored[-1] if key is not None else None, reachable)

    def publish(
        self, generations: Mapping[str, int], now: int, *, era: bytes | None = None
    ) -> None:
        """Lease `generations`, current at the time `now` (in ms) in `era`, to every reader."""
        expires = now + int(LEASE * 1000)
        leases = {
            f"gen:{tag}": (generation, expires, self._lease(tag, generation, expires))
            for tag, generation in generations.items()
        }
        self._store.publish(leases, era=era)

    def note(self, generations: Mapping[str, int]) -> None:
        """Have nobody believe what was current before `generations`, which were committed."""
        now = now_ms()
        expires = now + int((LEASE + SKEW) * 1000)
        notes = {
            f"gen:{tag}": (generation, expires, self._lease(tag, generation, now))
            for tag, generation in generations.items()
        }
        self._store.publish(notes, at_once=True)

    def _lease(self, tag: str, generation: int, expires: int) -> bytes:
        body = b"%d|%d|" % (generation, expires)
        return body + self._mac(tag, body)

    def _read_leases(self, tags: list[str], stored: list[bytes | None]) -> dict[str, int]:
        if not self._store.trusted:
            return {}
        now = now_ms()
        found = {}
        for tag, lease in zip(tags, stored, strict=False):
            if lease is None:
                continue
            known = self._verified.get(tag)
            if known is None or known[0] != lease:
                known = self._verify(tag, lease)
            if known is not None and 0 < known[2] - now <= LONGEST_MS:
                found[tag] = known[1]
        return found

    def _verify(self, tag: str, lease: bytes) -> tuple[bytes, int, int] | None:
        body = lease[:-MAC_BYTES]
        if not compare_digest(lease[-MAC_BYTES:], self._mac(tag, body)):
            return None
        generation, expires, _ = body.split(b"|")
        if len(self._verified) >= REMEMBERED:
            self._verified.clear()
        known = self._verified[tag] = (lease, int(generation), int(expires))
        return known

    def _mac(self, tag: str, body: bytes) -> bytes:
        content = tag.encode() + b"|" + body
        return blake2b(content, key=self._key, digest_size=MAC_BYTES, person=b"lease").digest()

    def _from_database(self, tags: list[str]) -> dict[str, int]:
        era = self._era()
        now = now_ms()
        rows = _select(db.session, tags)
        generations = {tag: generation for tag, generation, _ in rows}
        # A transaction with a snapshot of its own may see what was current long ago.
        if era is not None and rows[0][2] == "read committed":
            with suppress(Unavailable):
                self.publish(generations, now, era=era)
        return generations

    def _era(self) -> bytes | None:
        try:
            return self._store.era()
        except Unavailable:
            return None


def now_ms() -> int:
    return int(time() * 1000)


def forget() -> None:
    """Have the current request read generations anew."""
    if has_app_context():
        _known().clear()


def _known() -> dict[str, int]:
    """The generations that this request has read; outside a request nothing is kept."""
    known = current_state().generations
    return {} if known is None else known


def _recall(known: Mapping[str, int], tags: Iterable[str]) -> dict[str, int] | None:
    try:
        return {tag: known[tag] for tag in tags}
    except KeyError:
        return None


def _select(session: ScopedSession, tags: list[str]) -> list[tuple[str, int, str]]:
    """Read generations in the transaction that is open, or in one that is ended again."""
    if session.scope is None:
        with session.scoped(IdentityScope()):
            return _rows(session, tags)
    opened = not session.in_transaction()
    try:
        return _rows(session, tags)
    finally:
        if opened:
            session.rollback()


def _rows(session: ScopedSession, tags: list[str]) -> list[tuple[str, int, str]]:
    return [(row[0], row[1], row[2]) for row in session.execute(_READ, {"tags": tags})]


def reads_committed_only(session: ScopedSession) -> bool:
    """Whether the open transaction sees what every other sees now: it has written nothing itself,
    and keeps no older snapshot."""
    return bool(session.scalar(_READS_COMMITTED_ONLY))
