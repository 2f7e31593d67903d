"""Extensions, unbound until `create_app` binds them to an application."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar, cast

import structlog
from flask import Flask, current_app
from flask_caching import Cache
from prometheus_client import Counter
from psycopg2.errors import QueryCanceled
from sqlalchemy import Engine, create_engine, event, func, literal, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from webapp.db.deadline import KEEPALIVES, BoundedConnection, Connector
from webapp.db.limits import is_pooled, limits_of_statements, prepare_connection
from webapp.db.replica import Reading, Replica, ReplicaUnusable, close
from webapp.db.roles import Process, refuse_unsafe_login_role
from webapp.db.scopes import Scope
from webapp.db.session import ScopedSession
from webapp.http.state import RequestState, current_state
from webapp.settings import Settings

POOL = {
    "pool_size": 8,
    "max_overflow": 8,
    "pool_timeout": 5,
    "pool_recycle": 1800,
    "pool_pre_ping": True,
}


log = structlog.get_logger()

S = TypeVar("S", bound=Scope)
T = TypeVar("T")

READS = Counter(
    "sightline_replica_reads_total",
    "Reads that may be a replica's, by whether it or the primary has answered.",
    ("answered_by",),
)

_REPLICA = "replica"
_PROCESS = "process"
"""Key in an application's extensions: the kind of process that it runs in, where that is known."""


@dataclass(frozen=True)
class _Bound:
    """How one application reaches its database."""

    connector: Connector
    engine: Engine
    make_session: sessionmaker[ScopedSession]


@dataclass(frozen=True)
class Read(Generic[T]):
    """What was read, and of when it is."""

    value: T
    behind: int | None
    """As in `Reading`."""


class Database:
    """An engine for each application, and a scoped session for each application context.

    Flask-SQLAlchemy-Lite is not used: it also closes asyncio sessions, which do not exist here.
    Running its coroutine costs each request 0.6 ms, more than all of a cached answer.
    """

    def init_app(self, app: Flask) -> None:
        """Bind the database; its first connection is refused unless the login role is harmless."""
        settings: Settings = app.extensions["settings"]
        bound = _bind(app, settings, settings.database_url)
        app.extensions["database"], app.extensions[_REPLICA] = [bound], None
        if settings.database_replica_url is not None:
            beside = _bind(app, settings, settings.database_replica_url, readonly=True)
            is_reached = partial(_is_reached, bound.engine)
            replica = Replica(beside.make_session, settings.database_replica_lag, is_reached)
            app.extensions["database"].append(beside)
            app.extensions[_REPLICA] = replica
        app.teardown_appcontext(_close_session)

    @property
    def engine(self) -> Engine:
        return self._bound.engine

    @property
    def session(self) -> ScopedSession:
        """The session of this application context, closed when the context ends."""
        state = current_state()
        if state.session is None:
            state.session = self._bound.make_session(info={"scope": state.scope})
        return state.session

    @contextmanager
    def scoped(self, scope: S) -> Iterator[S]:
        """Run a block in `scope`, then return to the scope before it.

        A session is made only once the block uses one: an answer out of the cache needs none.
        """
        state = current_state()
        before = _scope_of(state)
        _enter(state, scope)
        try:
            yield scope
        finally:
            _enter(state, before)

    @property
    def scope(self) -> Scope | None:
        """The scope that the session is in, or will be in once it is made."""
        return _scope_of(current_state())

    @contextmanager
    def read_session(self) -> Iterator[Reading]:
        """Read in the scope of this context, from the replica where one is set and can be used.

        Otherwise the session is the one of this context. What was committed just now may be
        missing: nothing may be read in it that a decision or a change rests on.
        """
        reading = self._begin_reading()
        if reading is None:
            yield Reading(self.session, None)
            return
        try:
            yield reading
        finally:
            close(reading.session)

    def read(self, work: Callable[[ScopedSession], T]) -> Read[T]:
        """Read as in `read_session`; where the replica fails meanwhile, once more on the primary.

        It ends statements of which it cannot wait any longer to follow the primary, too.
        """
        with self.read_session() as reading:
            try:
                return Read(work(reading.session), reading.behind)
            except OperationalError as error:
                if reading.behind is None or isinstance(error.orig, QueryCanceled):
                    raise
                self._leave_replica(type(error.orig).__name__)
        return Read(work(self.session), None)

    def ask_replica(self) -> int | None:
        """How many seconds the replica is behind; `None` where none is set.

        Raises `ReplicaUnusable`.
        """
        if self._replica is None:
            return None
        reading = self._replica.begin(self.scope)
        close(reading.session)
        return reading.behind

    def _begin_reading(self) -> Reading | None:
        if self._replica is None:
            return None
        if not self._replica.rests:
            try:
                reading = self._replica.begin(self.scope)
            except ReplicaUnusable as error:
                self._leave_replica(str(error))
            else:
                READS.labels("replica").inc()
                return reading
        READS.labels("primary").inc()
        return None

    def _leave_replica(self, problem: str) -> None:
        if self._replica is not None:
            self._replica.rest()
        log.warning("replica_not_used", problem=problem)

    def reach(self) -> None:
        """Query the database.

        Raises `UnsafeLoginRole`, or SQLAlchemy's error if the database does not answer.
        """
        with self.engine.connect() as connection:
            connection.execute(select(literal(1)))

    def is_pooled(self) -> bool:
        """Whether a pooler stands between this process and the database."""
        with self.engine.connect() as connection:
            return is_pooled(connection)

    def refuse_logins_beyond(self, process: Process) -> None:
        """Refuse a login role that can do more than a kind of process needs. Call it before the
        first connection; otherwise a role that may become any scope's is accepted."""
        current_app.extensions[_PROCESS] = process

    def prepare_to_fork(self) -> None:
        """Keep nothing that a process forked from this one must not share or believe: connections,
        and that the database has just not answered."""
        for bound in current_app.extensions["database"]:
            bound.engine.dispose()
            bound.connector.silence.end()

    @property
    def _bound(self) -> _Bound:
        bound: _Bound = current_app.extensions["database"][0]
        return bound

    @property
    def _replica(self) -> Replica | None:
        replica: Replica | None = current_app.extensions[_REPLICA]
        return replica


def _bind(app: Flask, settings: Settings, url: str, *, readonly: bool = False) -> _Bound:
    connector = Connector(settings.database_timeout)
    arguments = {**_CONNECT_ARGUMENTS, "connection_factory": connector.connect}
    limits = limits_of_statements(settings.database_timeout)
    engine = create_engine(url, connect_args=arguments, **POOL)
    event.listen(engine, "connect", partial(_prepare, limits, readonly))
    event.listen(engine, "first_connect", partial(_refuse_unsafe_login_role, app))
    make_session = sessionmaker(engine, class_=ScopedSession, limits=limits)
    return _Bound(connector, engine, make_session)


def _is_reached(engine: Engine, position: str) -> bool:
    """Whether a primary has nothing after a position of its log; no, where it does not answer."""
    more = func.pg_wal_lsn_diff(func.pg_current_wal_flush_lsn(), position)
    try:
        with engine.connect() as connection:
            return bool(connection.scalar(select(more <= 0)))
    except OperationalError:
        return False


_CONNECT_ARGUMENTS = {
    "application_name": "sightline",
    **KEEPALIVES,
}


def _scope_of(state: RequestState) -> Scope | None:
    return state.scope if state.session is None else state.session.scope


def _enter(state: RequestState, scope: Scope | None) -> None:
    state.scope = scope
    if state.session is not None:
        state.session.enter(scope)


def _close_session(_: BaseException | None) -> None:
    session = current_state().session
    if session is not None:
        try:
            session.enter(None)
        except OperationalError as error:  # the answer is made; what was open is rolled back
            log.warning("session_not_closed", problem=type(error.orig).__name__)


def _prepare(
    limits: Mapping[str, str], readonly: bool, made: DBAPIConnection, _: ConnectionPoolEntry
) -> None:
    prepare_connection(cast(BoundedConnection, made), limits, readonly=readonly)


def _refuse_unsafe_login_role(
    app: Flask, connection: DBAPIConnection, _: ConnectionPoolEntry
) -> None:
    refuse_unsafe_login_role(connection, app.extensions.get(_PROCESS, "commands"))


db = Database()
cache = Cache()
