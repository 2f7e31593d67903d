"""Connections with the logins of the web server, the worker and the commands."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, NullPool, create_engine, make_url, text

from webapp.db.roles import Process, login_role
from webapp.stack.home import environment_of


@contextmanager
def connected(environment: dict[str, str], login: Process) -> Iterator[Connection]:
    url = make_url(environment_of(login, environment)["DATABASE_URL"])
    url = url.set(drivername="postgresql+psycopg2")
    engine = create_engine(url, poolclass=NullPool, connect_args={"options": "-c lock_timeout=60s"})
    with engine.connect() as connection:
        assert connection.scalar(text("select session_user")) == login_role(login)
        yield connection
