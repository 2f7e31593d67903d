"""`invalidate`, and the session's events that carry it out when the transaction commits."""

from time import monotonic, sleep

from sqlalchemy import event, text
from sqlalchemy.orm import SessionTransaction

from webapp.caching.generations import LEASE, REUSE, SKEW
from webapp.caching.state import current_caching
from webapp.caching.store import Unavailable
from webapp.db.session import ScopedSession
from webapp.extensions import db
from webapp.http.state import current_state

_NOTES, _RAISED, _COMMITTED = "cache.notes", "cache.raised", "cache.committed"

_RAISE = text("select raised, generation from raise_generations(cast(:tags as text[]))")


def invalidate(*tags: str) -> None:
    """End all values cached under `tags` when the current transaction commits.

    Until then, this session's cached functions with one of these tags compute and store nothing. A
    rollback cancels the invalidation, and so does that of a savepoint in which this was called.
    The commit returns when no process can serve the ended values any more. That is REUSE after the
    commit, or LEASE + SKEW if Redis does not answer.
    """
    session = db.session
    if not session.in_transaction():
        session.begin()
    transaction = session.get_nested_transaction() or session.get_transaction()
    session.info.setdefault(_NOTES, []).extend((tag, transaction) for tag in tags)


def is_noted(tags: frozenset[str]) -> bool:
    """Return whether the open transaction has invalidated one of `tags`."""
    session = current_state().session
    return session is not None and any(tag in tags for tag, _ in session.info.get(_NOTES, ()))


@event.listens_for(ScopedSession, "before_commit")
def _raise_generations(session: ScopedSession) -> None:
    if session.in_nested_transaction():
        return
    session.flush()
    if notes := session.info.get(_NOTES):
        # Late, since this locks the rows until the commit.
        rows = session.execute(_RAISE, {"tags": [tag for tag, _ in notes]})
        session.info[_RAISED] = {row.raised: row.generation for row in rows}


@event.listens_for(ScopedSession, "after_commit")
def _remember_commit(session: ScopedSession) -> None:
    if raised := session.info.pop(_RAISED, None):
        session.info[_COMMITTED] = raised, monotonic()


@event.listens_for(ScopedSession, "after_soft_rollback")
def _forget_rolled_back(session: ScopedSession, ended: SessionTransaction) -> None:
    if ended.nested and (notes := session.info.get(_NOTES)):
        notes[:] = [note for note in notes if not _is_within(note[1], ended)]


@event.listens_for(ScopedSession, "after_transaction_end")
def _end(session: ScopedSession, ended: SessionTransaction) -> None:
    """Publish the committed generations, when the connection is back in the pool."""
    if ended.parent is not None:
        return
    session.info.pop(_NOTES, None)
    session.info.pop(_RAISED, None)
    if committed := session.info.pop(_COMMITTED, None):
        _publish(*committed)


def _publish(raised: dict[str, int], committed: float) -> None:
    try:
        current_caching().generations.note(raised)
    except Unavailable:
        # Readers may hold leases of earlier generations: wait until the last one has expired.
        sleep(max(0.0, committed + LEASE + SKEW - monotonic()))
    else:
        sleep(REUSE)


def _is_within(transaction: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while transaction is not None and transaction is not outer:
        transaction = transaction.parent
    return transaction is outer
