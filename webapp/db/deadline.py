"""A limit to how long PostgreSQL may take to answer, kept by this process itself.

PostgreSQL's `statement_timeout` ends what is slow. A server that hangs, or a network that loses
packets, ends nothing: without a limit here, each request that needs the database would wait.
psycopg2 calls `_wait` wherever it would wait for the server: for connecting, each statement, each
commit and rollback.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from select import POLLIN, POLLOUT, poll
from threading import Lock
from time import monotonic
from typing import Any

from psycopg2 import Error, OperationalError
from psycopg2.extensions import (
    POLL_OK,
    POLL_READ,
    connection,
    make_dsn,
    parse_dsn,
    set_wait_callback,
)
from sqlalchemy import func, select
from sqlalchemy.orm import Session

CONNECT_LIMIT = 3.0
"""Seconds that connecting may take."""

GRACE = 1.0
"""Seconds that PostgreSQL has to end a statement by itself, before the connection is given up."""

RETRY = 1.0
"""Seconds without a new connection, after the database has not answered."""

KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
"""Arguments of a connection that end it where the server is gone without a word."""

OLDEST = 16
"""The oldest version of PostgreSQL: the first that grants a role without what it inherits."""

FORGOTTEN = 10.0
"""Seconds without a try after which a silence counts no more."""


class DatabaseSilent(OperationalError):
    """The database did not answer in time, or has just not answered another request."""


class UnsupportedServer(OperationalError):
    """The server is of a version that lacks what the roles rest on; the text is for operators."""


class Silence:
    """What this process knows of a database that does not answer.

    Meanwhile one connection at a time tries whether it answers again. Others are refused at once,
    so that no thread waits for what another one waits for. Any answer ends a silence. One after
    which nothing has tried for FORGOTTEN is forgotten: it says nothing about the database of now.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._refusing_until: float | None = None

    def begin(self) -> None:
        with self._lock:
            self._refusing_until = monotonic() + RETRY

    def end(self) -> None:
        if self._refusing_until is not None:
            with self._lock:
                self._refusing_until = None

    def refuse(self) -> None:
        """Raise `DatabaseSilent` unless the caller may try to connect."""
        with self._lock:
            if self._refusing_until is None:
                return
            now = monotonic()
            if now < self._refusing_until:
                raise DatabaseSilent("it has just not answered")
            forgotten = now >= self._refusing_until + FORGOTTEN
            self._refusing_until = None if forgotten else now + CONNECT_LIMIT


class BoundedConnection(connection):
    """A connection that is closed, with `DatabaseSilent`, where the database does not answer."""

    limit: float | None = CONNECT_LIMIT
    """Seconds that one answer may take; `None`: as long as it likes."""

    def __init__(self, dsn: str, silence: Silence) -> None:
        self._silence = silence
        super().__init__(dsn)

    def wait(self) -> None:
        """Wait for the server; raises `DatabaseSilent`, at which psycopg2 closes the connection."""
        ends = None if self.limit is None else monotonic() + self.limit
        if not _is_answered(self, ends):
            self._silence.begin()
            raise DatabaseSilent(f"no answer within {self.limit:g} s")
        self._silence.end()


class Connector:
    """Makes the connections of one application."""

    def __init__(self, statement_limit: float | None) -> None:
        """`statement_limit`: the seconds after which PostgreSQL ends a statement by itself.

        `None`: statements take as long as they need, and only connecting has a limit.
        """
        set_wait_callback(_wait)
        self._last = 0
        """The place of the server, among those that a URL names, that was connected to last."""
        self._limit = None if statement_limit is None else statement_limit + GRACE
        self.silence = Silence()

    def connect(self, dsn: str, _: Any = None) -> BoundedConnection:
        """Connect; psycopg2's `connection_factory`. Raises `DatabaseSilent`, `UnsupportedServer`.

        Of several servers the one that answered last is tried first, each within the limit: libpq
        would wait for the first one alone.
        """
        self.silence.refuse()
        servers = _servers_of(dsn)
        for tried in range(len(servers)):
            place = (self._last + tried) % len(servers)
            try:
                made = self._connect(servers[place])
            except OperationalError:
                if tried + 1 == len(servers):
                    raise
            else:
                self._last = place
                return made
        raise AssertionError("a URL names one server at least")

    def _connect(self, dsn: str) -> BoundedConnection:
        try:
            made = BoundedConnection(dsn, self.silence)
        except DatabaseSilent:
            raise
        except Error:  # a refusal is an answer
            self.silence.end()
            raise
        if made.server_version < OLDEST * 10_000:
            found = made.server_version // 10_000
            made.close()
            raise UnsupportedServer(f"PostgreSQL {OLDEST} or newer is needed, and this is {found}")
        made.limit = self._limit
        return made


def _servers_of(dsn: str) -> list[str]:
    """One connection string for each server that a string names.

    `prefer-standby` stays one: libpq asks all servers then, before it takes a primary.
    """
    options = parse_dsn(dsn)
    hosts = options.get("host", "").split(",")
    if len(hosts) == 1 or options.get("target_session_attrs") == "prefer-standby":
        return [dsn]
    ports = options.get("port", "").split(",")
    ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
    addresses = options.get("hostaddr", "").split(",")
    addresses = addresses if len(addresses) == len(hosts) else [""] * len(hosts)
    return [
        make_dsn(**{**options, "host": host, "port": port or None, "hostaddr": address or None})
        for host, port, address in zip(hosts, ports, addresses, strict=True)
    ]


@contextmanager
def long_statements(session: Session) -> Iterator[None]:
    """Let the statements of this block take as long as they need, inside one transaction."""
    session.execute(select(func.set_config("statement_timeout", "0", True)))
    driver = session.connection().connection.driver_connection
    if not isinstance(driver, BoundedConnection):
        yield
        return
    limit, driver.limit = driver.limit, None
    try:
        yield
    finally:
        driver.limit = limit


def _wait(waiting: connection) -> None:
    if isinstance(waiting, BoundedConnection):
        waiting.wait()
    else:
        _is_answered(waiting, None)


def _is_answered(waiting: connection, ends: float | None) -> bool:
    """Wait for the server until `ends`, as `monotonic` counts."""
    while (state := waiting.poll()) != POLL_OK:
        ready = poll()  # not `select`, which knows no file above 1023
        ready.register(waiting.fileno(), POLLIN if state == POLL_READ else POLLOUT)
        if not ready.poll(None if ends is None else max(0.0, ends - monotonic()) * 1000):
            return False
    return True
