"""A replica of the database, from which lists may be read that need not be of this moment.

Row level security, roles and settings are those of the primary. Where the replica does not answer,
is no replica, or lacks too much, it is not asked for a while.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from time import monotonic

from sqlalchemy import Text, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import sessionmaker

from webapp.db.roles import UnsafeLoginRole
from webapp.db.scopes import Scope
from webapp.db.session import ScopedSession

REST = 5.0
"""Seconds for which a replica is not asked again that could not be used."""


class ReplicaUnusable(Exception):
    """A replica is not to be read from now; the text is for operators."""


@dataclass(frozen=True)
class Reading:
    """A session to read in, and what it may lack."""

    session: ScopedSession
    behind: int | None
    """Whole seconds that it is behind the primary at most; `None` where it is the primary's."""


class Replica:
    """One replica, as one process finds it."""

    def __init__(
        self,
        make_session: sessionmaker[ScopedSession],
        limit: float,
        is_reached: Callable[[str], bool],
    ) -> None:
        """`limit`: seconds that it may be behind. `is_reached`: asks the primary whether a position
        in its log is the last one."""
        self._make_session = make_session
        self._limit = limit
        self._is_reached = is_reached
        self._rests_until = -inf

    @property
    def rests(self) -> bool:
        return monotonic() < self._rests_until

    def rest(self) -> None:
        self._rests_until = monotonic() + REST

    def begin(self, scope: Scope | None) -> Reading:
        """Begin to read in a scope; raises `ReplicaUnusable`. The caller closes the session."""
        session = self._make_session(info={"scope": scope})
        try:
            return Reading(session, self._measure(session))
        except ReplicaUnusable:
            # After a failover another server may be the replica.
            session.invalidate()
            raise
        except OperationalError as error:
            close(session)
            raise ReplicaUnusable("it does not answer") from error
        except UnsafeLoginRole as error:
            close(session)
            raise ReplicaUnusable(str(error)) from error

    def _measure(self, session: ScopedSession) -> int:
        """How many whole seconds the replica is behind at most.

        It has all that was committed until its last transaction. While nothing is committed that is
        long ago, and the primary knows whether there is anything more.
        """
        age = func.clock_timestamp() - func.pg_last_xact_replay_timestamp()
        replayed = func.pg_last_wal_replay_lsn().cast(Text)
        is_replica, seconds, position = session.execute(
            select(func.pg_is_in_recovery(), func.extract("epoch", age), replayed)
        ).one()
        if not is_replica:
            raise ReplicaUnusable("it is no replica: what it has may be that of a former primary")
        behind = inf if seconds is None else max(0.0, float(seconds))
        if behind < 1 or (position and self._is_reached(position)):
            return 0
        if behind > self._limit:
            raise ReplicaUnusable(f"it is more than {self._limit:g} s behind")
        return int(behind)


def close(session: ScopedSession) -> None:
    """Close a session that has only read, though its server may be gone."""
    with suppress(OperationalError):
        session.close()
